/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The last step on this node: reply translation or ingress policy, then into the pod. */
#pragma once
#include "answer.h"
#include "flow.h"
#include "icmp.h"
#include "ipcache.h"
#include "nat.h"
#ifdef IPV6_PACKETS
#include "no_proxy.h"
#else
#include "proxy.h"
#endif

/* VIA_STACK: the node's stack brings the packet, it only needs a verdict. REPLY_ONLY: nothing new may come this way.
 * HAIRPIN: the pod's own packet comes back to it, judged by nobody. DIRECT: its frame is the pod's already. */
enum deliver_how {
	DELIVER = 0, DELIVER_VIA_STACK = 1, DELIVER_REPLY_ONLY = 2, DELIVER_HAIRPIN = 4, DELIVER_DIRECT = 8,
};

/* True for every MAC while the pod's is not known. */
inlined int is_mac_of(const struct endpoint_value *pod, const __u8 *mac)
{
	const __u16 *own = (const void *)pod->mac, *other = (const void *)mac;
	return (own[0] == other[0] && own[1] == other[1] && own[2] == other[2]) || !has_mac(pod);
}

/* Is the frame for this pod? By its MAC, or because it is for everybody. */
inlined int is_addressed(struct __sk_buff *skb, const struct endpoint_value *pod, int or_to_all)
{
	struct ethhdr *frame = (void *)(long)skb->data;
	if ((void *)(frame + 1) > (void *)(long)skb->data_end)
		return 0;
	return is_mac_of(pod, frame->h_dest) || (or_to_all && frame->h_dest[0] & 1);
}

/* The pod expects the frontend's answer, and its own address instead of the loopback address. */
inlined int translate_reply(struct __sk_buff *skb, struct packet *p, const struct conntrack_value *v, int is_first)
{
	ip_address frontend, backend = p->source;
	__be16 port = v->nat_port;
	__u16 flags = v->flags;
	if (!port)
		return 0;
	__builtin_memcpy(&frontend, v->nat_address, sizeof(frontend));
	p->frontend = frontend;
	p->frontend_port = port;
	keep_origin(p);
	if (is_first)
		emit(skb, p, EVENT_TRANSLATION, 0, TRANSLATED_BACK);
	if (nat_source(skb, p, as_argument(frontend), port))
		return DROP_WRITE;
	return flags & CT_LOOPBACK ? nat_destination(skb, p, as_argument(backend), 0) : 0;
}

/* Is it an answer to what this pod opened? Then `r` is 0, or the reason to drop. */
inlined int accept_reply(struct __sk_buff *skb, struct packet *p, struct conntrack_value *v, int *r)
{
	if (!v)
		return 0;
	if (v->proxy_port && proxy_mark(skb) != MARK_EGRESS_REPLY) {	/* the proxy has the same ports in the pod's name */
		p->proxy_port = ONLY_ITS_SOCKET;
		*r = 0;
		return 1;
	}
	int is_first = !(v->flags & CT_SEEN_REPLY);
	touch_reply(skb, p, v);
	*r = translate_reply(skb, p, v, is_first);
	return 1;
}

/* 0, or the reason to drop. Established flows of both directions are looked for before any that is opening. */
outline int admit(struct __sk_buff *skb, struct packet *p, const struct endpoint_value *to, int how)
{
	struct conntrack_key key, reverse;
	int may_be_reply = !opens_connection(p), r = 0;
	ct_key_reverse(&reverse, p, CT_EGRESS);
	if (may_be_reply && accept_reply(skb, p, ct_lookup_likely(&reverse, p), &r))
		return r;
	ct_key_forward(&key, p, CT_INGRESS);
	struct conntrack_value *v = how & DELIVER_REPLY_ONLY ? 0 : ct_lookup(&key, p);
	if (!v && may_be_reply && accept_reply(skb, p, ct_lookup(&reverse, p), &r))
		return r;
	if (how & DELIVER_REPLY_ONLY)
		return DROP_UNROUTABLE;
	if (!v && may_be_reply && is_of_upstream(skb, p)) {
		p->proxy_port = ONLY_ITS_SOCKET;
		return 0;
	}
	p->conntrack_flags = how & DELIVER_VIA_STACK ? CT_VIA_STACK : p->tunnel_source ? CT_BY_TUNNEL : 0;
	return track(skb, p, to, &key, v);
}

/* to_container lets a marked packet pass: it is judged already. */
inlined int enter(struct __sk_buff *skb, const struct packet *p, const struct endpoint_value *to, int how)
{
	if (!has_mac(to)) {	/* judged is what counts: the node's stack will find it */
		set_mark(skb);
		return PASS;
	}
	if (!(how & DELIVER_DIRECT) &&
	    (bpf_skb_store_bytes(skb, 0, to->mac, 6, 0) < 0 || bpf_skb_store_bytes(skb, 6, to->node_mac, 6, 0) < 0))
		return drop(skb, p, DROP_WRITE);
	if (CONFIG.flags & CONFIG_PEER_REDIRECT)
		return bpf_redirect_peer(to->ifindex, 0);
	set_mark(skb);
	return bpf_redirect(to->ifindex, 0);
}

apart int deliver(struct __sk_buff *skb, struct packet *p, const struct endpoint_value *to, int how)
{
	int r;
	if (!p || !to)
		return TC_ACT_SHOT;
	p->endpoint_id = to->endpoint_id;
	p->destination_identity = to->identity;
	p->direction = INGRESS;
	p->rule_id = 0;
	p->match = MATCH_NONE;
	p->proxy_port = 0;
	if (to->flags & BRIDGE_PORT && !p->tunnel_source && is_addressed(skb, to, 0))
		how |= DELIVER_DIRECT;	/* no router is between them */
	r = how & (DELIVER_VIA_STACK | DELIVER_DIRECT) ? 0 : decrement_ttl(skb);
	if (!r && p->kind & KIND_ICMP_ERROR)
		r = how & DELIVER_HAIRPIN ? 0 : related(skb, p, CT_EGRESS);
	else if (!r && !(how & DELIVER_HAIRPIN))
		r = admit(skb, p, to, how);
	if (r)
		return end_way(skb, p, r);
	if (p->proxy_port)
		return to_proxy(skb, p, p->tunnel_source ? 0 : to, how & DELIVER_VIA_STACK);
	trace(skb, p, POINT_ENDPOINT);
	count(TO_ENDPOINT, INGRESS, skb->len);
	return how & DELIVER_VIA_STACK ? PASS : enter(skb, p, to, how);
}
