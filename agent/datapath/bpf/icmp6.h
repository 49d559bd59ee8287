/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What an ICMPv6 error quotes. */
#pragma once
#include "ct.h"
#include "nat.h"

#define ICMP_CHECK_OFFSET 2
#define QUOTE_OFFSET 8
#define QUOTED_SOURCE offsetof(struct ipv6hdr, saddr)
#define QUOTED_DESTINATION offsetof(struct ipv6hdr, daddr)

struct quote { ip_address source, destination; __be16 ports[2]; __u8 protocol; int ip_offset, l4_offset; };

/* An error is for who sent what it quotes: one for somebody else would use a flow's rights for a packet that is none of it.
 * Quotes with extension headers are of no known flow. 0, or the reason to drop. */
inlined int read_quote(struct __sk_buff *skb, const struct packet *p, struct quote *q)
{
	struct ipv6hdr ip;
	__be16 head[4];
	q->ip_offset = p->l4_offset + QUOTE_OFFSET;
	if (bpf_skb_load_bytes(skb, q->ip_offset, &ip, sizeof(ip)) < 0 || ip.version != 6)
		return DROP_INVALID_PACKET;
	q->l4_offset = q->ip_offset + sizeof(ip);
	if (bpf_skb_load_bytes(skb, q->l4_offset, head, sizeof(head)) < 0)
		return DROP_INVALID_PACKET;
	__builtin_memcpy(&q->source, &ip.saddr, sizeof(q->source));
	__builtin_memcpy(&q->destination, &ip.daddr, sizeof(q->destination));
	q->protocol = ip.nexthdr;
	q->ports[0] = head[0];
	q->ports[1] = head[1];
	if (ip.nexthdr == PROTO_ICMPV6)
		icmp_ports(bpf_ntohs(head[0]) >> 8, head[2], &q->ports[0], &q->ports[1]);
	return is_same(q->source, p->destination) ? 0 : DROP_UNRELATED_ICMP;
}

/* The ICMPv6 checksum is over the quoted address too: an IPv6 header has no checksum that makes up for it. */
inlined int rewrite_quoted_address(struct __sk_buff *skb, const struct packet *p, const struct quote *q, int offset,
				   ip_address old, ip_address new)
{
	__s64 change = bpf_csum_diff((void *)&old, sizeof(old), (void *)&new, sizeof(new), 0);
	if (bpf_l4_csum_replace(skb, p->l4_offset + ICMP_CHECK_OFFSET, 0, change, 0) < 0)
		return DROP_WRITE;
	return bpf_skb_store_bytes(skb, q->ip_offset + offset, &new, sizeof(new), 0) < 0 ? DROP_WRITE : 0;
}
