/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Rewriting addresses and ports of IPv6 with the transport's checksum, the only one. Incremental only: payload may still be a
 * partial checksum (TSO). */
#pragma once
#include "l4_check.h"
#include "parse6.h"

#define SOURCE_OFFSET (L3_OFFSET + offsetof(struct ipv6hdr, saddr))
#define DESTINATION_OFFSET (L3_OFFSET + offsetof(struct ipv6hdr, daddr))
#define HOP_LIMIT_OFFSET (L3_OFFSET + offsetof(struct ipv6hdr, hop_limit))

/* 0, or DROP_WRITE. */
inlined int replace_address(struct __sk_buff *skb, const struct packet *p, int offset, ip_address old, ip_address new)
{
	struct l4_check c = l4_check_of(p);
	__s64 change = bpf_csum_diff((void *)&old, sizeof(old), (void *)&new, sizeof(new), 0);
	if (c.offset && bpf_l4_csum_replace(skb, c.offset, 0, change, BPF_F_PSEUDO_HDR | c.flags) < 0)
		return DROP_WRITE;
	return bpf_skb_store_bytes(skb, offset, &new, sizeof(new), 0) < 0 ? DROP_WRITE : 0;
}

inlined int replace_port(struct __sk_buff *skb, const struct packet *p, int offset, __be16 old, __be16 new)
{
	struct l4_check c = l4_check_of(p);
	if (old != new && p->protocol == PROTO_SCTP)
		return DROP_WRITE;	/* its checksum takes more stack than addresses of IPv6 leave */
	if (old == new || !c.offset)
		return 0;
	if (bpf_l4_csum_replace(skb, c.offset, old, new, c.flags | 2) < 0)
		return DROP_WRITE;
	return bpf_skb_store_bytes(skb, offset, &new, 2, 0) < 0 ? DROP_WRITE : 0;
}

/* The hop limit, which has IPv4's name for the sake of who calls it. */
inlined int decrement_ttl(struct __sk_buff *skb)
{
	__u8 limit;
	if (bpf_skb_load_bytes(skb, HOP_LIMIT_OFFSET, &limit, 1) < 0)
		return DROP_WRITE;
	if (limit-- <= 1)
		return DROP_TTL;
	return bpf_skb_store_bytes(skb, HOP_LIMIT_OFFSET, &limit, 1, 0) < 0 ? DROP_WRITE : 0;
}
