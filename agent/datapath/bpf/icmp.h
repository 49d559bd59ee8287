/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* ICMP errors: they pass when they quote a packet of a known flow, and the quote is translated like the flow was. */
#pragma once
#include "ct.h"
#include "nat.h"

#define ICMP_CHECK_OFFSET 2
#define QUOTE_OFFSET 8

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

/* A pod is no router: it speaks of what came to itself. 0, or the reason to drop. */
inlined int read_quote_of_pod(struct __sk_buff *skb, const struct packet *p, struct quote *q)
{
	int r = read_quote(skb, p, q);
	return r || q->destination == p->source ? r : DROP_UNRELATED_ICMP;
}

/* An address and its header checksum change together, so the ICMP checksum over both stays what it was. */
inlined int rewrite_quoted_address(struct __sk_buff *skb, const struct quote *q, int offset, __be32 old, __be32 new)
{
	if (bpf_l3_csum_replace(skb, q->ip_offset + offsetof(struct iphdr, check), old, new, 4) < 0)
		return DROP_WRITE;
	return bpf_skb_store_bytes(skb, q->ip_offset + offset, &new, 4, 0) < 0 ? DROP_WRITE : 0;
}

/* which: 0 the source's, 1 the destination's. */
inlined int rewrite_quoted_port(struct __sk_buff *skb, const struct packet *p, const struct quote *q, int which, __be16 new)
{
	if (bpf_l4_csum_replace(skb, p->l4_offset + ICMP_CHECK_OFFSET, q->ports[which], new, 2) < 0)
		return DROP_WRITE;
	return bpf_skb_store_bytes(skb, q->l4_offset + which * 2, &new, 2, 0) < 0 ? DROP_WRITE : 0;
}

/* The pod sent to the frontend and, with a hairpin, from its own address; the quote shows what became of that. */
inlined int restore_quote(struct __sk_buff *skb, struct packet *p, const struct quote *q, struct conntrack_value *v)
{
	__be32 frontend;
	__be16 port = v->nat_port;
	__u16 flags = v->flags;
	__builtin_memcpy(&frontend, v->nat_address, 4);
	int r = rewrite_quoted_address(skb, q, offsetof(struct iphdr, daddr), q->destination, frontend);
	if (!r)
		r = rewrite_quoted_port(skb, p, q, 1, port);
	if (!r && flags & CT_LOOPBACK) {
		r = rewrite_quoted_address(skb, q, offsetof(struct iphdr, saddr), q->source, q->destination);
		if (!r)
			r = nat_destination(skb, p, q->destination, 0);
	}
	return r;
}

/* 0, or the reason to drop. `kind`: the side on which the quoted packet is a forward one: CT_EGRESS towards a pod,
 * CT_INGRESS from a pod. */
outline int related(struct __sk_buff *skb, struct packet *p, __u8 kind)
{
	struct quote q;
	int r = kind == CT_INGRESS ? read_quote_of_pod(skb, p, &q) : read_quote(skb, p, &q);
	if (r)
		return r;
	p->trace = TRACE_RELATED;
	p->is_reported = 1;
	struct conntrack_key key = {
		.source = q.source, .destination = q.destination, .source_port = q.ports[0],
		.destination_port = q.ports[1], .protocol = q.protocol, .kind = kind };
	struct conntrack_value *v = ct_lookup(&key, p);
	if (v && kind == CT_EGRESS && v->nat_port)
		return restore_quote(skb, p, &q, v);
	if (!v) {
		struct conntrack_key reverse = {
			.source = q.destination, .destination = q.source, .source_port = q.ports[1],
			.destination_port = q.ports[0], .protocol = q.protocol,
			.kind = kind == CT_EGRESS ? CT_INGRESS : CT_EGRESS };
		v = ct_lookup(&reverse, p);
	}
	if (!v)
		return DROP_UNRELATED_ICMP;
	p->conntrack_flags |= v->flags & CT_WAY;
	return 0;
}
