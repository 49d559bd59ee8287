/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Rewriting addresses and ports with both checksums. Incremental only: payload may still be a partial checksum (TSO). */
#pragma once
#include "parse.h"

struct l4_check { int offset; __u64 flags; };

inlined struct l4_check l4_check_of(const struct packet *p)
{
	struct l4_check c = { .offset = 0, .flags = 0 };
	if (p->kind & KIND_LATER_FRAGMENT)
		return c;	/* the first fragment carries the checksum of the whole datagram */
	if (p->protocol == PROTO_TCP)
		c.offset = p->l4_offset + 16;
	if (p->protocol == PROTO_UDP) {
		c.offset = p->l4_offset + 6;
		c.flags = BPF_F_MARK_MANGLED_0;	/* zero means "no checksum" and stays so */
	}
	return c;
}

/* 0, or DROP_WRITE. */
inlined int replace_address(struct __sk_buff *skb, const struct packet *p, int offset, __be32 old, __be32 new)
{
	struct l4_check c = l4_check_of(p);
	if (old == new)
		return 0;
	if (c.offset && bpf_l4_csum_replace(skb, c.offset, old, new, BPF_F_PSEUDO_HDR | c.flags | 4) < 0)
		return DROP_WRITE;
	if (bpf_l3_csum_replace(skb, CHECK_OFFSET, old, new, 4) < 0)
		return DROP_WRITE;
	return bpf_skb_store_bytes(skb, offset, &new, 4, 0) < 0 ? DROP_WRITE : 0;
}

inlined int replace_port(struct __sk_buff *skb, const struct packet *p, int offset, __be16 old, __be16 new)
{
	struct l4_check c = l4_check_of(p);
	if (old == new || !c.offset)
		return 0;
	if (bpf_l4_csum_replace(skb, c.offset, old, new, c.flags | 2) < 0)
		return DROP_WRITE;
	return bpf_skb_store_bytes(skb, offset, &new, 2, 0) < 0 ? DROP_WRITE : 0;
}

inlined int decrement_ttl(struct __sk_buff *skb)
{
	__u8 ttl, next;
	if (bpf_skb_load_bytes(skb, TTL_OFFSET, &ttl, 1) < 0)
		return DROP_WRITE;
	if (ttl <= 1)
		return DROP_TTL;
	next = ttl - 1;
	if (bpf_l3_csum_replace(skb, CHECK_OFFSET, ttl, next, 2) < 0)
		return DROP_WRITE;
	return bpf_skb_store_bytes(skb, TTL_OFFSET, &next, 1, 0) < 0 ? DROP_WRITE : 0;
}
