/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* IPv6 of the node itself: host policies do not judge it but drop it. */
#pragma once
#include "node_address.h"
#include <linux/ipv6.h>

#define HOP_OPTIONS_BYTES 8
#define MLD2_REPORT 143

/* Without these a neighbour is not found, and an address not got. What tells switches of groups (MLD) comes behind a
 * hop-by-hop header with one option. */
inlined int keeps_link_up(struct __sk_buff *skb, const struct ipv6hdr *ip)
{
	struct { __u8 type, code; __be16 port; } head;	/* of ICMPv6, or of UDP with its destination port */
	struct { __u8 next, length; } options;
	__u32 offset = sizeof(*ip);
	__u8 next = ip->nexthdr;
	if (next == IPPROTO_HOPOPTS) {
		if (bpf_skb_load_bytes_relative(skb, offset, &options, sizeof(options), BPF_HDR_START_NET) < 0 ||
		    options.length)
			return 0;
		next = options.next;
		offset += HOP_OPTIONS_BYTES;
	}
	if (bpf_skb_load_bytes_relative(skb, offset, &head, sizeof(head), BPF_HDR_START_NET) < 0)
		return 0;
	if (next == PROTO_ICMPV6)
		return head.type <= 4 || (head.type >= 130 && head.type <= 137) || head.type == MLD2_REPORT;
	return next == PROTO_UDP && (head.port == bpf_htons(546) || head.port == bpf_htons(547));
}

/* 0, or the reason to drop. */
outline int judge_ipv6(struct __sk_buff *skb, int direction)
{
	struct bpf_fib_lookup fib = { .family = FAMILY_INET6, .ifindex = skb->ifindex };
	struct ipv6hdr ip;
	if (bpf_skb_load_bytes_relative(skb, 0, &ip, sizeof(ip), BPF_HDR_START_NET) < 0)
		return DROP_INVALID_PACKET;
	if (keeps_link_up(skb, &ip))
		return 0;
	if (direction == EGRESS)
		return skb->ingress_ifindex ? 0 : DROP_UNSUPPORTED_L3;
	__builtin_memcpy(fib.ipv6_dst, &ip.daddr, 16);
	if (ip.daddr.in6_u.u6_addr8[0] != 0xff && !is_kept(bpf_fib_lookup(skb, &fib, sizeof(fib), 0))) {
		pass_on(skb, BY_ANYBODY);
		return 0;
	}
	return DROP_UNSUPPORTED_L3;
}
