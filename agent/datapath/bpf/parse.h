/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* One packet's facts while it is on its way through the programs, and how they are read from its bytes. */
#pragma once
#include "maps.h"
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/in.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>

#define L3_OFFSET ETH_HLEN
#define CHECK_OFFSET (L3_OFFSET + offsetof(struct iphdr, check))
#define TTL_OFFSET (L3_OFFSET + offsetof(struct iphdr, ttl))
#define SOURCE_OFFSET (L3_OFFSET + offsetof(struct iphdr, saddr))
#define DESTINATION_OFFSET (L3_OFFSET + offsetof(struct iphdr, daddr))
#define PASS TC_ACT_UNSPEC	/* let the next program on the interface, then the stack, have it */
#define outline static __attribute__((noinline))
#define inlined static __always_inline
/* Verified once, apart from its callers (Linux 5.12): what ends a packet's way is called from many places. Its pointers
 * may be null for all the verifier knows. */
#define apart __attribute__((noinline))

enum packet_kind { KIND_LATER_FRAGMENT = 1, KIND_ICMP_ERROR = 2, KIND_IPV6 = 4, KIND_MIDSTREAM = 8,
		   KIND_UNATTENDED = 16, KIND_ENFORCED = 32, KIND_FIRST_FRAGMENT = 64 };
enum tcp_flag { TCP_FIN = 1, TCP_SYN = 2, TCP_RST = 4, TCP_ACK = 16 };
enum icmp_type { ICMP_ECHO_REPLY = 0, ICMP_UNREACHABLE = 3, ICMP_ECHO = 8, ICMP_TIME_EXCEEDED = 11, ICMP_PARAMETER = 12 };
struct icmp_header { __u8 type, code; __sum16 check; __be16 id, sequence; };

/* Ports of ICMP are made of its type and id (icmp_ports). policy_port is what policy judges: the destination port, or the
 * ICMP type. */
struct packet {
	__be32 source, destination;
	__be16 source_port, destination_port, policy_port, l4_offset;
	__u8 protocol, tcp_flags, kind, direction, match, icmp_code, trace, pad;
	__u16 endpoint_id;
	__u32 source_identity, destination_identity, rule_id, backend_id;
	__be32 frontend;
	__be16 frontend_port;
	__u16 conntrack_flags;
	__be32 tunnel_source;	/* 0: not from the overlay */
	__u32 now;	/* ticks: read once */
};
#define TICK_SHIFT 30	/* ticks of 2^30 ns: cheaper than a division, close enough to a second */

/* What parse answers beside drop reasons (>= 128). */
enum parsed { PARSED_IPV4 = 0, PARSED_IPV6 = 1, PARSED_NEIGHBOUR = 2 };

inlined void fragment_key_of(struct fragment_key *key, const struct packet *p, __be16 id)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->source = p->source;
	key->destination = p->destination;
	key->id = id;
	key->protocol = p->protocol;
}

/* A later fragment has the ports of the first. */
outline int later_fragment(struct packet *p, __be16 id)
{
	struct fragment_key key;
	fragment_key_of(&key, p, id);
	struct fragment_value *known = bpf_map_lookup_elem(&mesh_fragments, &key);
	if (!known)
		return DROP_FIRST_FRAGMENT_MISSING;
	p->source_port = known->source_port;
	p->destination_port = known->destination_port;
	p->policy_port = known->policy_port;
	p->kind |= KIND_LATER_FRAGMENT;
	return 0;
}

/* Only for a packet whose source is its sender's: nobody says which ports the fragments of another have. */
outline int remember_ports(struct __sk_buff *skb, const struct packet *p)
{
	struct fragment_value ports = { p->source_port, p->destination_port, p->policy_port, 0 };
	struct fragment_key key;
	__be16 id;
	if (!(p->kind & KIND_FIRST_FRAGMENT) ||
	    bpf_skb_load_bytes(skb, L3_OFFSET + offsetof(struct iphdr, id), &id, sizeof(id)) < 0)
		return 0;
	fragment_key_of(&key, p, id);
	bpf_map_update_elem(&mesh_fragments, &key, &ports, BPF_ANY);
	return 0;
}

/* Echo (reply 0), timestamp, information and address mask (reply one more) of ICMP. */
inlined int is_query(__u8 type)
{
	return type == ICMP_ECHO || type == 13 || type == 15 || type == 17;
}

/* What a flow of ICMP has for ports: a query's reply is the reverse of it, no query is the reverse of another, and no two
 * types are the same flow, so that the verdict on one says nothing about another. */
inlined void icmp_ports(__u8 type, __be16 id, __be16 *source, __be16 *destination)
{
	int is_reply = type == ICMP_ECHO_REPLY || (type >= 14 && type <= 18 && !(type & 1));
	__u16 query = type == ICMP_ECHO_REPLY ? ICMP_ECHO : type - is_reply, of_host = bpf_ntohs(id);
	__be16 high = bpf_htons(of_host >> 8), low = bpf_htons(query << 8 | (of_host & 0xff));
	if (!is_query(query)) {	/* nothing answers it */
		high = bpf_htons(0x8000);
		low = bpf_htons(query << 8);
	}
	*source = is_reply ? low : high;
	*destination = is_reply ? high : low;
}

inlined void take_icmp(struct packet *p, const struct icmp_header *icmp)
{
	icmp_ports(icmp->type, icmp->id, &p->source_port, &p->destination_port);
	if (icmp->type == ICMP_UNREACHABLE || icmp->type == ICMP_TIME_EXCEEDED || icmp->type == ICMP_PARAMETER)
		p->kind |= KIND_ICMP_ERROR;
	p->policy_port = bpf_htons(icmp->type);
	p->icmp_code = icmp->code;
}

inlined int parse_icmp(struct __sk_buff *skb, struct packet *p)
{
	struct icmp_header icmp;
	if (bpf_skb_load_bytes(skb, p->l4_offset, &icmp, sizeof(icmp)) < 0)
		return DROP_INVALID_PACKET;
	take_icmp(p, &icmp);
	return 0;
}

inlined int parse_ports(struct __sk_buff *skb, struct packet *p)
{
	struct { __be16 source, destination; __be32 sequence, acknowledged; __u8 offset, flags; } head;
	int is_tcp = p->protocol == PROTO_TCP;
	if (bpf_skb_load_bytes(skb, p->l4_offset, &head, is_tcp ? 14 : 4) < 0 || (is_tcp && head.offset >> 4 < 5))
		return DROP_INVALID_PACKET;
	p->source_port = head.source;
	p->destination_port = p->policy_port = head.destination;
	p->tcp_flags = is_tcp ? head.flags : 0;
	return 0;
}

inlined int parse_transport(struct __sk_buff *skb, struct packet *p)
{
	switch (p->protocol) {
	case PROTO_TCP:
	case PROTO_UDP:
	case PROTO_SCTP:
		return parse_ports(skb, p);
	case PROTO_ICMP:
		return parse_icmp(skb, p);
	}
	return 0;
}

/* PARSED_*, or a drop reason. Everything later relies on what is checked here: a whole IPv4 header, a length that
 * covers it, and transport ports that were really there. */
outline int parse(struct __sk_buff *skb, struct packet *p)
{
	if (skb->protocol == bpf_htons(ETH_P_ARP))
		return PARSED_NEIGHBOUR;
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return PARSED_IPV6;
	if (skb->protocol != bpf_htons(ETH_P_IP))
		return DROP_UNSUPPORTED_L2;
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct iphdr *ip = data + L3_OFFSET;
	if ((void *)(ip + 1) > end) {
		if (bpf_skb_pull_data(skb, L3_OFFSET + sizeof(*ip)))
			return DROP_INVALID_PACKET;
		data = (void *)(long)skb->data;
		end = (void *)(long)skb->data_end;
		ip = data + L3_OFFSET;
		if ((void *)(ip + 1) > end)
			return DROP_INVALID_PACKET;
	}
	__u32 header = ip->ihl * 4, total = bpf_ntohs(ip->tot_len);
	/* total 0 is a GSO packet above 64 KiB */
	if (ip->version != 4 || header < sizeof(*ip) || (total && total < header) || total + L3_OFFSET > skb->len)
		return DROP_INVALID_PACKET;
	p->source = ip->saddr;
	p->destination = ip->daddr;
	p->protocol = ip->protocol;
	p->l4_offset = L3_OFFSET + header;
	p->now = bpf_ktime_get_coarse_ns() >> TICK_SHIFT;
	__be16 id = ip->id, fragment = ip->frag_off;
	if (fragment & bpf_htons(0x1fff))
		return later_fragment(p, id);
	if (fragment & bpf_htons(0x2000))
		p->kind |= KIND_FIRST_FRAGMENT;
	return parse_transport(skb, p);
}

/* Then it is no answer. */
inlined int opens_connection(const struct packet *p)
{
	if (p->protocol == PROTO_ICMP)
		return is_query(bpf_ntohs(p->policy_port));
	return p->protocol == PROTO_TCP && (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}
