/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What an ICMP error quotes. */
#pragma once
#include "ct.h"
#include "nat.h"

#define ICMP_CHECK_OFFSET 2
#define QUOTE_OFFSET 8
#define QUOTED_SOURCE offsetof(struct iphdr, saddr)
#define QUOTED_DESTINATION offsetof(struct iphdr, daddr)

struct quote { __be32 source, destination; __be16 ports[2]; __u8 protocol; int ip_offset, l4_offset; };

/* An error is for who sent what it quotes: one for somebody else would use a flow's rights for a packet that is none of it.
 * 0, or the reason to drop. */
inlined int read_quote(struct __sk_buff *skb, const struct packet *p, struct quote *q)
{
	struct iphdr ip;
	__be16 head[4];
	q->ip_offset = p->l4_offset + QUOTE_OFFSET;
	if (bpf_skb_load_bytes(skb, q->ip_offset, &ip, sizeof(ip)) < 0 || ip.version != 4 || ip.ihl < 5)
		return DROP_INVALID_PACKET;
	q->l4_offset = q->ip_offset + ip.ihl * 4;
	if (ip.frag_off & bpf_htons(0x1fff) || bpf_skb_load_bytes(skb, q->l4_offset, head, sizeof(head)) < 0)
		return DROP_INVALID_PACKET;
	q->source = ip.saddr;
	q->destination = ip.daddr;
	q->protocol = ip.protocol;
	q->ports[0] = head[0];
	q->ports[1] = head[1];
	if (ip.protocol == PROTO_ICMP)
		icmp_ports(bpf_ntohs(head[0]) >> 8, head[2], &q->ports[0], &q->ports[1]);
	return q->source == p->destination ? 0 : DROP_UNRELATED_ICMP;
}

/* An address and its header checksum change together, so the ICMP checksum over both stays what it was. */
inlined int rewrite_quoted_address(struct __sk_buff *skb, const struct packet *p, const struct quote *q, int offset, __be32 old,
				   __be32 new)
{
	if (!p || bpf_l3_csum_replace(skb, q->ip_offset + offsetof(struct iphdr, check), old, new, 4) < 0)
		return DROP_WRITE;
	return bpf_skb_store_bytes(skb, q->ip_offset + offset, &new, 4, 0) < 0 ? DROP_WRITE : 0;
}
