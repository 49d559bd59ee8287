/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Packets that do not fit the overlay: the pod is told the path's MTU, as a router would. Without this, pods with the
 * underlay's MTU still work, by fragments of the outer packets and at a fraction of the speed. */
#pragma once
#include "answer.h"

#define DONT_FRAGMENT bpf_htons(0x4000)

/* IP length of the packet, or of the largest segment it will be cut into. */
inlined __u32 wire_length(struct __sk_buff *skb, const struct packet *p)
{
	__u32 headers = p->l4_offset - L3_OFFSET;
	__u8 offset = 0;
	if (!skb->gso_size)
		return skb->len - L3_OFFSET;
	if (p->protocol != PROTO_TCP)
		return headers + 8 + skb->gso_size;
	if (bpf_skb_load_bytes(skb, p->l4_offset + 12, &offset, 1) < 0)
		return 0;
	return headers + (offset >> 4) * 4 + skb->gso_size;
}

#ifdef IPV6_PACKETS
inlined int is_too_big(struct __sk_buff *skb, const struct packet *p)
{
	return wire_length(skb, p) > CONFIG.overlay_mtu;
}

inlined int tell_mtu(struct __sk_buff *skb, struct packet *p)
{
	return tell_pod(skb, p, DROP_FRAG_NEEDED, CONFIG.overlay_mtu << 16 | ICMP_TOO_BIG << 8);
}
#else
inlined int is_too_big(struct __sk_buff *skb, const struct packet *p)
{
	__be16 fragment = 0;
	if (wire_length(skb, p) <= CONFIG.overlay_mtu)
		return 0;
	bpf_skb_load_bytes(skb, L3_OFFSET + offsetof(struct iphdr, frag_off), &fragment, 2);
	return fragment & DONT_FRAGMENT;
}

inlined int tell_mtu(struct __sk_buff *skb, struct packet *p)
{
	return tell_pod(skb, p, DROP_FRAG_NEEDED, CONFIG.overlay_mtu << 16 | ICMP_UNREACHABLE << 8 | ICMP_FRAG_NEEDED);
}
#endif
