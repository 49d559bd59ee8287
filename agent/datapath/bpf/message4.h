/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A packet of IPv4 becomes a message about itself. */
#pragma once
#include "message.h"

#define ICMP_HOST_UNREACHABLE 1
#define ICMP_PORT_UNREACHABLE 3
#define ICMP_FRAG_NEEDED 4
#define QUOTED (sizeof(struct iphdr) + 8)
#define QUOTED_TCP (sizeof(struct iphdr) + 20)	/* a checksum left to the device bars a shorter packet */

struct icmp_error { struct icmp_header icmp; __u8 quote[QUOTED_TCP]; };
struct reset { __be32 source, destination; __be16 protocol, length; struct tcp_header tcp; };	/* pseudo header first */


inlined void answer_header(struct iphdr *ip, __u16 length, __u8 protocol, __be32 from, __be32 to)
{
	*ip = (struct iphdr){ .version = 4, .ihl = 5, .tot_len = bpf_htons(length), .ttl = 64, .protocol = protocol,
			      .saddr = from, .daddr = to };
	ip->check = fold(bpf_csum_diff(0, 0, (void *)ip, sizeof(*ip), 0));
}

/* The packet becomes an ICMP error about itself, to its sender. `what`: type, code and, in the upper half, the MTU.
 * 0, or DROP_WRITE. */
outline int become_icmp_error(struct __sk_buff *skb, const struct packet *p, __be32 from, __u32 what)
{
	struct icmp_error error = { .icmp = { .type = what >> 8 & 0xff, .code = what & 0xff,
					      .sequence = bpf_htons(what >> 16) } };
	struct iphdr ip;
	int is_tcp = p->protocol == PROTO_TCP, quoted = is_tcp ? QUOTED_TCP : QUOTED;
	if ((is_tcp ? bpf_skb_load_bytes(skb, L3_OFFSET, error.quote, QUOTED_TCP)
		    : bpf_skb_load_bytes(skb, L3_OFFSET, error.quote, QUOTED)) < 0)
		return DROP_WRITE;
	error.icmp.check = fold(bpf_csum_diff(0, 0, (void *)&error, sizeof(error), 0));
	answer_header(&ip, sizeof(ip) + sizeof(error.icmp) + quoted, PROTO_ICMP, from, p->source);
	if (bpf_skb_change_tail(skb, L3_OFFSET + quoted, 0) < 0 ||
	    bpf_skb_adjust_room(skb, sizeof(ip) + sizeof(error.icmp), BPF_ADJ_ROOM_MAC, 0) < 0 ||
	    bpf_skb_store_bytes(skb, L3_OFFSET, &ip, sizeof(ip), BPF_F_INVALIDATE_HASH) < 0 ||
	    bpf_skb_store_bytes(skb, L3_OFFSET + sizeof(ip), &error, sizeof(error.icmp), 0) < 0 ||
	    (is_tcp ? bpf_skb_store_bytes(skb, L3_OFFSET + QUOTED, error.quote, QUOTED_TCP, 0)
		    : bpf_skb_store_bytes(skb, L3_OFFSET + QUOTED, error.quote, QUOTED, 0)) < 0)
		return DROP_WRITE;
	return swap_macs(skb);
}

/* The packet becomes the reset of its connection (RFC 9293 3.10.7.1). 0, or DROP_WRITE. */
outline int become_reset(struct __sk_buff *skb, const struct packet *p)
{
	struct reset r = { .source = p->destination, .destination = p->source, .protocol = bpf_htons(PROTO_TCP),
			   .length = bpf_htons(sizeof(r.tcp)) };
	struct tcp_header got;
	struct iphdr ip;
	if (bpf_skb_load_bytes(skb, p->l4_offset, &got, sizeof(got)) < 0)
		return DROP_WRITE;
	reset_of(&r.tcp, &got, p, skb->len);
	r.tcp.check = fold(bpf_csum_diff(0, 0, (void *)&r, sizeof(r), 0));
	answer_header(&ip, sizeof(ip) + sizeof(r.tcp), PROTO_TCP, p->destination, p->source);
	if (bpf_skb_change_tail(skb, L3_OFFSET + sizeof(ip) + sizeof(r.tcp), 0) < 0 ||
	    bpf_skb_store_bytes(skb, L3_OFFSET, &ip, sizeof(ip), BPF_F_INVALIDATE_HASH) < 0 ||
	    bpf_skb_store_bytes(skb, L3_OFFSET + sizeof(ip), &r.tcp, sizeof(r.tcp), 0) < 0)
		return DROP_WRITE;
	return swap_macs(skb);
}
