/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Rewriting addresses and ports with both checksums. Incremental only: payload may still be a partial checksum (TSO). */
#pragma once
#include "l4_check.h"
#include "parse.h"
#include "sctp.h"

#define CHECK_OFFSET (L3_OFFSET + offsetof(struct iphdr, check))
#define TTL_OFFSET (L3_OFFSET + offsetof(struct iphdr, ttl))
#define SOURCE_OFFSET (L3_OFFSET + offsetof(struct iphdr, saddr))
#define DESTINATION_OFFSET (L3_OFFSET + offsetof(struct iphdr, daddr))

/* The IP header, which parse has seen to be there; 0 if it is not. */
inlined struct iphdr *header_of(struct __sk_buff *skb)
{
	struct iphdr *ip = (void *)(long)skb->data + L3_OFFSET;
	return (void *)(ip + 1) > (void *)(long)skb->data_end ? 0 : ip;
}

/* An address and the header's checksum in one write: each helper that writes costs as much as a small map's lookup. */
inlined int write_address(struct __sk_buff *skb, int offset, __be32 old, __be32 new)
{
	struct iphdr *ip = header_of(skb);
	__u16 words[5];	/* checksum, source, destination */
	if (!ip)
		return DROP_WRITE;
	__u64 sum = (__u16)~ip->check + (__u64)(__u32)~old + new;
	for (int i = 0; i < 3; i++)
		sum = (sum & 0xffff) + (sum >> 16);
	words[0] = ~sum;
	__builtin_memcpy(words + 1, offset == SOURCE_OFFSET ? &new : &ip->saddr, 4);
	__builtin_memcpy(words + 3, offset == SOURCE_OFFSET ? &ip->daddr : &new, 4);
	return bpf_skb_store_bytes(skb, CHECK_OFFSET, words, sizeof(words), 0) < 0 ? DROP_WRITE : 0;
}

/* 0, or DROP_WRITE. */
inlined int replace_address(struct __sk_buff *skb, const struct packet *p, int offset, __be32 old, __be32 new)
{
	struct l4_check c = l4_check_of(p);
	if (old == new)
		return 0;
	if (c.offset && bpf_l4_csum_replace(skb, c.offset, old, new, BPF_F_PSEUDO_HDR | c.flags | 4) < 0)
		return DROP_WRITE;
	return write_address(skb, offset, old, new);
}

inlined int replace_port(struct __sk_buff *skb, const struct packet *p, int offset, __be16 old, __be16 new)
{
	struct l4_check c = l4_check_of(p);
	if (old != new && p->protocol == PROTO_SCTP)
		return replace_sctp_port(skb, p, offset, old, new);
	if (old == new || !c.offset)
		return 0;
	if (bpf_l4_csum_replace(skb, c.offset, old, new, c.flags | 2) < 0)
		return DROP_WRITE;
	return bpf_skb_store_bytes(skb, offset, &new, 2, 0) < 0 ? DROP_WRITE : 0;
}

inlined int decrement_ttl(struct __sk_buff *skb)
{
	struct iphdr *ip = header_of(skb);
	struct { __u8 ttl, protocol; __sum16 check; } next;
	if (!ip)
		return DROP_WRITE;
	if (ip->ttl <= 1)
		return DROP_TTL;
	__u32 check = ip->check + bpf_htons(0x0100);
	next.ttl = ip->ttl - 1;
	next.protocol = ip->protocol;
	next.check = check + (check >= 0xffff);
	return bpf_skb_store_bytes(skb, TTL_OFFSET, &next, sizeof(next), 0) < 0 ? DROP_WRITE : 0;
}
