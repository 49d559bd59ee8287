/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* ICMP errors: they pass when they quote a packet of a known flow, and the quote is translated like the flow was. */
#pragma once
#ifdef IPV6_PACKETS
#include "icmp6.h"
#else
#include "icmp4.h"
#endif

/* A pod is no router: it speaks of what came to itself. 0, or the reason to drop. */
inlined int read_quote_of_pod(struct __sk_buff *skb, const struct packet *p, struct quote *q)
{
	int r = read_quote(skb, p, q);
	return r || is_same(q->destination, p->source) ? r : DROP_UNRELATED_ICMP;
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
	ip_address frontend;
	__be16 port = v->nat_port;
	__u16 flags = v->flags;
	__builtin_memcpy(&frontend, v->nat_address, sizeof(frontend));
	int r = rewrite_quoted_address(skb, p, q, QUOTED_DESTINATION, q->destination, frontend);
	if (!r)
		r = rewrite_quoted_port(skb, p, q, 1, port);
	if (!r && flags & CT_LOOPBACK) {
		r = rewrite_quoted_address(skb, p, q, QUOTED_SOURCE, q->source, q->destination);
		if (!r)
			r = nat_destination(skb, p, as_argument(q->destination), 0);
	}
	return r;
}

/* 0, or the reason to drop. `kind`: the side on which the quoted packet is a forward one: CT_EGRESS towards a pod,
 * CT_INGRESS from a pod. */
apart int related(struct __sk_buff *skb, struct packet *p, __u8 kind)
{
	struct quote q;
	if (!p)
		return DROP_UNRELATED_ICMP;
	int r = kind == CT_INGRESS ? read_quote_of_pod(skb, p, &q) : read_quote(skb, p, &q);
	if (r)
		return r;
	p->trace = TRACE_RELATED;
	p->is_reported = 1;
	struct conntrack_key key;
	ct_key_of(&key, &q.source, &q.destination, q.ports[0], q.ports[1], q.protocol, kind);
	struct conntrack_value *v = ct_lookup(&key, p);
	if (v && kind == CT_EGRESS && v->nat_port)
		return restore_quote(skb, p, &q, v);
	if (!v) {
		ct_key_of(&key, &q.destination, &q.source, q.ports[1], q.ports[0], q.protocol,
			  kind == CT_EGRESS ? CT_INGRESS : CT_EGRESS);
		v = ct_lookup(&key, p);
	}
	if (!v)
		return DROP_UNRELATED_ICMP;
	p->conntrack_flags |= v->flags & CT_WAY;
	return 0;
}
