/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Every struct that user space shares with the programs, and the numbers in them. Mirrored by layout.py and
 * flow_layout.py; a test compares both through BTF. No struct has an implicit hole; addresses are 16 bytes where IPv6
 * will need them, IPv4 first and zeros after. A change of meaning needs a new version of the maps
 * it concerns (ABIS in spec.py). */
#pragma once
#include <linux/types.h>

enum protocol_number { PROTO_ICMP = 1, PROTO_TCP = 6, PROTO_UDP = 17, PROTO_ICMPV6 = 58, PROTO_SCTP = 132 };

enum service_flag {
	SERVICE_AFFINITY = 1,
	SERVICE_OF_NODE = 2,	/* for processes of the node too */
	SERVICE_OF_OUTSIDERS = 4,	/* for who comes by the underlay device: its backends of other clusters */
	SERVICE_SOURCE_RANGES = 8,	/* only for sources in mesh_source_ranges, processes of the node excepted */
};
enum service_algorithm { ALGORITHM_RANDOM = 0, ALGORITHM_MAGLEV = 1 };
enum backend_state { BACKEND_ACTIVE = 0, BACKEND_TERMINATING = 1, BACKEND_QUARANTINED = 2, BACKEND_MAINTENANCE = 3 };
enum direction { EGRESS = 0, INGRESS = 1 };
enum endpoint_flag {
	ENFORCE_INGRESS = 1,
	ENFORCE_EGRESS = 2,
	BRIDGE_PORT = 4,	/* pods speak directly to each other, and frames for others pass here too; node_mac is the bridge's */
	WATCH_INGRESS = 8,	/* new connections have a verdict record also where the direction is not enforced */
	WATCH_EGRESS = 16,
};
enum conntrack_kind { CT_EGRESS = 0, CT_INGRESS = 1, CT_SERVICE = 2 };
enum conntrack_flag {
	CT_LOOPBACK = 1,	/* a pod reached itself through a service */
	CT_CLOSING_FORWARD = 2,
	CT_CLOSING_REPLY = 4,
	CT_SEEN_REPLY = 8,
	CT_VIA_STACK = 16,	/* came through the node's stack: replies go back that way */
	CT_OPENING = 32,	/* the entry lies in mesh_ct_opening */
	CT_FORWARDED = 64,	/* somebody else's, under an address of the node: not judged as the node's */
	CT_BY_TUNNEL = 128,	/* came through the overlay: replies go back to the node it came from */
	CT_BY_PROXY = 256,	/* the proxy opened it in its sender's name: replies go to the proxy's socket */
};
enum identity_number {
	ID_UNKNOWN = 0,
	ID_HOST = 1,
	ID_WORLD = 2,
	ID_REMOTE_NODE = 6,
	ID_KUBE_APISERVER = 7,
	ID_WORLD_IPV6 = 10,
	ID_FIRST_CLUSTER_SCOPED = 256,
};
#define IDENTITY_BITS 24
#define SCOPE_OF_NETWORKS 1	/* above these bits: what rules name by network */
#define SCOPE_OF_NODES 2	/* above these bits: a number of this node's own for nodes with the same labels */

/* Cilium's numbers where they exist; 240 and above are ours. Below 128: forwarded, and counts of flows. */
enum reason {
	TO_ENDPOINT = 0,
	TO_OVERLAY = 1,
	TO_STACK = 2,
	UNJUDGED_TO_STACK = 3,
	FLOW_OPENED = 4,
	FLOW_ESTABLISHED = 5,
	FLOW_UNATTENDED = 6,
	FLOW_OF_NODE = 7,
	FLOW_OF_OUTSIDERS = 8,
	TO_PROXY = 9,
	DROP_INVALID_MAC = 130,
	DROP_INVALID_SOURCE = 132,
	DROP_POLICY = 133,
	DROP_INVALID_PACKET = 134,
	DROP_FRAG_NEEDED = 136,
	DROP_UNSUPPORTED_L3 = 139,
	DROP_WRITE = 141,
	DROP_NO_TUNNEL_KEY = 147,
	DROP_UNROUTABLE = 151,
	DROP_CT_FULL = 155,
	DROP_INVALID_EXTENSION = 156,
	DROP_NO_BACKEND = 158,
	DROP_NO_CONFIGURATION = 165,
	DROP_UNSUPPORTED_L2 = 166,
	DROP_NAT_FULL = 167,
	DROP_ENCAPSULATION = 170,
	DROP_INVALID_IDENTITY = 171,
	DROP_UNKNOWN_SENDER = 172,
	DROP_FIRST_FRAGMENT_MISSING = 175,
	DROP_NOT_IN_SOURCE_RANGE = 177,
	DROP_NO_SOCKET = 178,
	DROP_NOT_ASSIGNED = 179,
	DROP_PROXY = 180,
	DROP_DENY_RULE = 181,
	DROP_INVALID_CLUSTER = 192,
	DROP_TTL = 196,
	DROP_UNKNOWN_IDENTITY = 240,
	DROP_UNRELATED_ICMP = 241,
	DROP_NOT_BY_TUNNEL = 242,
	DROP_FOREIGN_SOURCE = 243,
};

/* Hubble's numbers. */
enum event_type { EVENT_DROP = 1, EVENT_TRACE = 4, EVENT_VERDICT = 5, EVENT_TRANSLATION = 7 };
enum trace_point {
	POINT_ENDPOINT = 0, POINT_PROXY = 1, POINT_HOST = 2, POINT_STACK = 3, POINT_OVERLAY = 4,
	POINT_FROM_ENDPOINT = 5, POINT_FROM_PROXY = 6, POINT_FROM_HOST = 7, POINT_FROM_STACK = 8, POINT_FROM_OVERLAY = 9,
	POINT_FROM_NETWORK = 10, POINT_NETWORK = 11,
};
enum trace_reason { TRACE_UNKNOWN = 0, TRACE_NEW = 1, TRACE_ESTABLISHED = 2, TRACE_REPLY = 3, TRACE_RELATED = 4 };
/* What a verdict that lets a packet on did with it. */
enum verdict_way { WAY_ON = 0, WAY_TO_PROXY = 1 };
/* Of an event of translation. FORWARD: the frontend became the destination; BACK: the source became the frontend. */
enum translation { TRANSLATED_FORWARD = 1, TRANSLATED_BACK = 3 };
/* What is traced. OFF: nothing is recorded at all. NONE: every packet where it comes in and where it goes. LOW: every packet
 * where it goes. MEDIUM: of a connection the first packet, those with TCP flags that its side has not sent yet, and one in
 * REPORT_TICKS, where they go. */
enum aggregation { AGGREGATE_OFF = 0, AGGREGATE_NONE = 1, AGGREGATE_LOW = 2, AGGREGATE_MEDIUM = 3 };
#define REPORT_TICKS 5
enum policy_match {
	MATCH_NONE = 0, MATCH_L3_ONLY = 1, MATCH_L3_L4 = 2, MATCH_L4_ONLY = 3, MATCH_ALL = 4, MATCH_L3_PROTO = 5,
	MATCH_PROTO_ONLY = 6,
};

/* Address 0 stands for every address of the node: node ports.
 * Slot 0 is the frontend: its backend_id is the affinity timeout in seconds, its count the number of slots, its algorithm
 * how a connection finds its slot. */
struct service_key { __be32 address; __be16 port; __u16 slot; __u8 protocol, scope; __u16 pad; };
struct service_value { __u32 backend_id, service_id; __u16 count; __u8 flags, algorithm; };
struct backend_value { __be32 address; __be16 port; __u8 protocol, state; __u16 cluster_id; __u8 zone, pad; };
struct member_key { __u32 service_id, backend_id; };
/* Present: sources of this range may open connections to the frontend that has the service id. */
struct source_range_key { __u32 prefix_length, service_id; __u8 address[16]; };
struct affinity_key { __u64 client; __u32 service_id; __u8 kind, pad[3]; };
struct affinity_value { __u64 last_used_ns; __u32 backend_id, pad; };

/* identity 0: the address is known, who it is not yet. tunnel 0: not behind a tunnel. */
struct ipcache_key { __u32 prefix_length; __u16 cluster_id; __u8 pad, family; __u8 address[16]; };
struct ipcache_value { __u32 identity; __u8 tunnel[16]; __u8 flags, pad; __u16 cluster_id; };

/* The port comes last so that a prefix of it is a port range; protocol and port are wild when cut off.
 * l4_bits of the value: 0, 8 (protocol), 9..24 (protocol and port prefix), as in its key. */
struct policy_key {
	__u32 prefix_length; __u16 endpoint_id; __u8 direction, pad; __u32 identity; __u8 protocol, pad2; __be16 port;
};
struct policy_value { __be16 proxy_port; __u8 deny, l4_bits; __u32 precedence, rule_id; };

/* The node itself is one too, in mesh_node: interface 0, endpoint 0, no addresses. */
struct endpoint_value {
	__u32 ifindex; __u16 endpoint_id, flags; __u32 identity, policy_revision; __u8 mac[6], node_mac[6], address[16];
};

/* Addresses and ports of the direction in which the flow was opened. */
struct conntrack_key { __be32 source, destination; __be16 source_port, destination_port; __u8 protocol, kind; __u16 pad; };
/* nat_*: EGRESS: the frontend replies are made to come from. SERVICE: the backend. Port 0: no translation.
 * reported_*: the tick of the last packet of that direction that was traced. */
struct conntrack_value {
	__u64 packets, bytes; __u32 lifetime, peer_identity, backend_id, policy_revision; __u8 nat_address[4];
	__u32 reported_forward, reported_reply, pad; __be16 nat_port; __u16 flags; __u8 tcp_forward, tcp_reply; __be16 proxy_port;
};

/* The same of IPv6. */
struct ipv6_address { __u32 words[4]; };
struct service_key6 { struct ipv6_address address; __be16 port; __u16 slot; __u8 protocol, scope; __u16 pad; };
struct backend_value6 { struct ipv6_address address; __be16 port; __u8 protocol, state; __u16 cluster_id; __u8 zone, pad; };
struct affinity_key6 { struct ipv6_address client; __u32 service_id; __u8 kind, pad[3]; };
struct conntrack_key6 {
	struct ipv6_address source, destination; __be16 source_port, destination_port; __u8 protocol, kind; __u16 pad;
};
struct conntrack_value6 {
	__u64 packets, bytes; __u32 lifetime, peer_identity, backend_id, policy_revision; __u8 nat_address[16];
	__u32 reported_forward, reported_reply; __be16 nat_port; __u16 flags; __u8 tcp_forward, tcp_reply; __be16 proxy_port;
};

/* Of one socket of the node. TO_BACKEND: what its datagrams to this frontend go to. TO_FRONTEND: what this backend is for it. */
enum socket_direction { TO_BACKEND = 0, TO_FRONTEND = 1 };
struct socket_key { __u64 cookie; __u8 address[16]; __be16 port; __u8 protocol, direction; __u32 pad; };
struct socket_value { __u8 address[16]; __be16 port; __u16 reported; __u32 backend_id; };	/* reported: low bits of a tick */

/* A connection from outside. FORWARD: what the client sends becomes this; REPLY: what the backend sends does. */
enum nat_direction { NAT_FORWARD = 0, NAT_REPLY = 1 };
enum nat_flag { NAT_LEFT = 1 };	/* to the node's stack: its backend is one of the own cluster */
struct nat_key { __u8 source[16], destination[16]; __be16 source_port, destination_port; __u8 protocol, direction; __u16 pad; };
struct nat_value {
	__u64 packets, bytes; __u8 source[16], destination[16]; __be16 source_port, destination_port; __u32 lifetime, backend_id;
	__u8 tcp_forward, tcp_reply; __u16 flags; __u32 reported_forward, reported_reply;
};

struct fragment_key { __be32 source, destination; __be16 id; __u8 protocol, pad; };
struct fragment_key6 { struct ipv6_address source, destination; __be32 id; __u8 protocol, pad[3]; };
struct fragment_value { __be16 source_port, destination_port, policy_port; __u16 protocol; };	/* protocol: of IPv6, whose later fragments do not say it */

struct metric_value { __u64 packets, bytes; };

/* UDP port, inside the overlay, of questions whether a node's overlay answers. */
#define PROBE_PORT 9879
enum probe_size { PROBE_SMALL = 0, PROBE_FULL = 1 };
struct probe { __u64 nonce; __u32 size, pad; };	/* the datagram's first bytes */
struct probe_key { __be32 node; __u32 size; };
struct probe_value { __u64 answered_ns, nonce; __u32 length, pad; };	/* the newest answer of a node */

/* direction: of the packet for the endpoint, not of its connection. point: a trace's, a verdict's way, a translation's kind.
 * Of a translation one end is the backend and `frontend` what the client takes it for. */
#define EVENT_VERSION 2
struct event {
	__u64 timestamp_ns;
	__u8 version, type, reason, direction, protocol, tcp_flags; __u16 endpoint_id;
	__u32 length, source_identity, destination_identity, rule_id, ifindex; __be16 proxy_port; __u16 pad;
	__be16 source_port, destination_port, frontend_port; __u8 match_and_point, family;
	__u8 source[16], destination[16], frontend[16];
	__u64 socket_cookie, cgroup_id;	/* of a socket of the node, else 0 */
};

enum config_flag { CONFIG_PEER_REDIRECT = 1, CONFIG_UNDERLAY_ETHERNET = 2 };
struct config {
	__be32 node_address, loopback_address;
	__u32 overlay_ifindex, cluster_id, cluster_shift, flags, mark, events_per_s, overlay_mtu;
	__be16 vxlan_port; __u16 pad;
	__u32 underlay_ifindex;	/* 0: not known */
	__u32 life_established, life_opening, life_closing, life_other;	/* ticks of 2^30 ns */
	__u32 unattended_after;	/* ticks; 0: never */
	__u64 netns_cookie;	/* the node's network namespace; 0: not known */
	__u16 nat_first, nat_count;	/* the node's ports for connections of outsiders; none: these are left alone */
	__u32 aggregation;
};
