/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Packets that do not fit the overlay: the pod is told the path's MTU, as a router would. Without this, pods with the
 * underlay's MTU still work, by fragments of the outer packets and at a fraction of the speed. */
#pragma once
#include "events.h"
#include "nat.h"

#define DONT_FRAGMENT bpf_htons(0x4000)
#define ICMP_FRAG_NEEDED 4
#define QUOTED (sizeof(struct iphdr) + 8)

struct mtu_error { struct icmp_header icmp; __u8 quote[QUOTED]; };

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

inlined int is_too_big(struct __sk_buff *skb, const struct packet *p)
{
	__be16 fragment = 0;
	if (wire_length(skb, p) <= CONFIG.overlay_mtu)
		return 0;
	bpf_skb_load_bytes(skb, L3_OFFSET + offsetof(struct iphdr, frag_off), &fragment, 2);
	return fragment & DONT_FRAGMENT;
}

inlined __u16 fold(__u64 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* The packet becomes an ICMP error from its destination to its sender. 0, or DROP_WRITE. */
outline int become_mtu_error(struct __sk_buff *skb, __be32 from, __be32 to)
{
	struct mtu_error error = { .icmp = { .type = ICMP_UNREACHABLE, .code = ICMP_FRAG_NEEDED,
					     .sequence = bpf_htons(CONFIG.overlay_mtu) } };
	struct iphdr ip = { .version = 4, .ihl = 5, .tot_len = bpf_htons(sizeof(ip) + sizeof(error)), .ttl = 64,
			    .protocol = PROTO_ICMP, .saddr = from, .daddr = to };
	__u8 macs[12];
	if (bpf_skb_load_bytes(skb, 0, macs, sizeof(macs)) < 0 ||
	    bpf_skb_load_bytes(skb, L3_OFFSET, error.quote, sizeof(error.quote)) < 0)
		return DROP_WRITE;
	error.icmp.check = fold(bpf_csum_diff(0, 0, (void *)&error, sizeof(error), 0));
	ip.check = fold(bpf_csum_diff(0, 0, (void *)&ip, sizeof(ip), 0));
	if (bpf_skb_change_tail(skb, L3_OFFSET + QUOTED, 0) < 0 ||
	    bpf_skb_adjust_room(skb, sizeof(ip) + sizeof(error.icmp), BPF_ADJ_ROOM_MAC, 0) < 0)
		return DROP_WRITE;
	if (bpf_skb_store_bytes(skb, L3_OFFSET, &ip, sizeof(ip), BPF_F_INVALIDATE_HASH) < 0 ||
	    bpf_skb_store_bytes(skb, L3_OFFSET + sizeof(ip), &error, sizeof(error), 0) < 0)
		return DROP_WRITE;
	bpf_skb_store_bytes(skb, 0, macs + 6, 6, 0);
	return bpf_skb_store_bytes(skb, 6, macs, 6, 0) < 0 ? DROP_WRITE : 0;
}

/* Ends the packet's way: it is counted as dropped, and its sender told. */
outline int tell_mtu(struct __sk_buff *skb, struct packet *p)
{
	__u32 ifindex = skb->ifindex;
	drop(skb, p, DROP_FRAG_NEEDED);
	if (p->l4_offset != L3_OFFSET + sizeof(struct iphdr))
		return TC_ACT_SHOT;
	if (p->frontend_port && nat_destination(skb, p, p->frontend, p->frontend_port))
		return TC_ACT_SHOT;
	if (become_mtu_error(skb, p->destination, p->source))
		return TC_ACT_SHOT;
	if (CONFIG.flags & CONFIG_PEER_REDIRECT)
		return bpf_redirect_peer(ifindex, 0);
	skb->mark = (skb->mark & ~CONFIG.mark) | CONFIG.mark;
	return bpf_redirect(ifindex, 0);
}
