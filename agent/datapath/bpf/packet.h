/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* One packet's facts while it is on its way through the programs. */
#pragma once
#include "context.h"
#include "maps.h"
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/in.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>

#define L3_OFFSET ETH_HLEN
#define PASS TC_ACT_UNSPEC	/* let the next program on the interface, then the stack, have it */
#define outline static __attribute__((noinline, unused))	/* a header serves programs of several kinds */
/* Verified once, apart from its callers (Linux 5.12): what ends a packet's way is called from many places. Its pointers
 * may be null for all the verifier knows. */
#define apart __attribute__((noinline))

enum packet_kind { KIND_LATER_FRAGMENT = 1, KIND_ICMP_ERROR = 2, KIND_IPV6 = 4, KIND_MIDSTREAM = 8,
		   KIND_UNATTENDED = 16, KIND_ENFORCED = 32, KIND_FIRST_FRAGMENT = 64 };
/* What the proxy sends in another's name; JUDGED: its receiver's policy has been asked for who opened it. */
enum by_proxy { BY_PROXY = 1, BY_PROXY_JUDGED = 2 };
enum tcp_flag { TCP_FIN = 1, TCP_SYN = 2, TCP_RST = 4, TCP_ACK = 16 };
struct icmp_header { __u8 type, code; __sum16 check; __be16 id, sequence; };

/* Ports of ICMP are made of its type and id (icmp_ports). policy_port is what policy judges: the destination port, or the
 * ICMP type. tcp_flags: of SCTP TCP_SYN for an INIT and TCP_ACK for all else; 0 for other protocols. */
struct packet {
	ip_address source, destination;
	__be16 source_port, destination_port, policy_port, l4_offset;
	__u8 protocol, tcp_flags, kind, direction, match, icmp_code;
	__u8 trace, is_reported;	/* a trace_reason; whether MEDIUM traces the packet */
	__u16 endpoint_id;
	__u32 source_identity, destination_identity, rule_id, backend_id;
	ip_address frontend;
	ip_address origin;	/* the source before it was translated, for records; 0: it was not */
	__be16 origin_port, frontend_port, proxy_port;
	__u16 conntrack_flags;
	__be32 tunnel_source;	/* 0: not from the overlay */
	__u32 now;	/* ticks: read once */
	__u8 by_proxy, pad[3];
#ifdef IPV6_PACKETS
	__be32 fragment_id;
#endif
};
/* What a pod that is its own backend has for its peer's address. Of IPv6 it is in the block that nobody has (RFC 6666). */
#ifdef IPV6_PACKETS
#define LOOPBACK_ADDRESS ((ip_address){ { bpf_htonl(0x01000000), 0, 0, bpf_htonl(0xa9fe2a01) } })
#else
#define LOOPBACK_ADDRESS CONFIG.loopback_address
#endif
#define TICK_SHIFT 30	/* ticks of 2^30 ns: cheaper than a division, close enough to a second */

/* What a flow of ICMP has for ports: a query's reply is the reverse of it, no query is the reverse of another, and no two
 * types are the same flow, so that the verdict on one says nothing about another. */
inlined void icmp_ports(__u8 type, __be16 id, __be16 *source, __be16 *destination)
{
	int is_answer = is_reply(type);
	__u16 query = query_of(type), of_host = bpf_ntohs(id);
	__be16 high = bpf_htons(of_host >> 8), low = bpf_htons(query << 8 | (of_host & 0xff));
	if (!is_query(query)) {	/* nothing answers it */
		high = bpf_htons(0x8000);
		low = bpf_htons(query << 8);
	}
	*source = is_answer ? low : high;
	*destination = is_answer ? high : low;
}

inlined void take_icmp(struct packet *p, const struct icmp_header *icmp)
{
	icmp_ports(icmp->type, icmp->id, &p->source_port, &p->destination_port);
	if (is_error(icmp->type))
		p->kind |= KIND_ICMP_ERROR;
	p->policy_port = bpf_htons(icmp->type);
	p->icmp_code = icmp->code;
}

/* Then it is no answer. */
inlined int opens_connection(const struct packet *p)
{
	if (p->protocol == PROTO_OF_ICMP)
		return is_query(bpf_ntohs(p->policy_port));
	return (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

/* Does it belong to a connection that an earlier packet opened, by what it says itself? */
inlined int is_within_connection(const struct packet *p)
{
	return (p->protocol == PROTO_TCP || p->tcp_flags) && !opens_connection(p);
}
