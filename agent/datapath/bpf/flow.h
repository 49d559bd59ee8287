/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A flow in the direction it was opened: judged when it is new, and again when policy or the peer's identity moved on.
 * Replies are never judged. */
#pragma once
#include "ct.h"
#include "policy.h"

#define CT_UNJUDGED (CT_LOOPBACK | CT_FORWARDED)

/* The policy may name another proxy now, or none. A connection of TCP cannot change from one way to the other: past a proxy
 * that it should go through it ends, and where it needs none any more it goes on through the one that it has. 0, or the
 * reason to drop. */
inlined int follow_proxy(struct packet *p, struct conntrack_value *v)
{
	int is_open = p->protocol == PROTO_TCP && !opens_connection(p);
	if (is_open && p->proxy_port && !v->proxy_port)
		return DROP_POLICY;
	if (is_open && !p->proxy_port)
		p->proxy_port = v->proxy_port;
	v->proxy_port = p->proxy_port;
	return 0;
}

inlined int rejudge(CONTEXT *skb, struct packet *p, const struct endpoint_value *endpoint,
		    struct conntrack_value *v, __u32 peer)
{
	if (p->by_proxy & BY_PROXY_JUDGED)
		return 0;
	p->proxy_port = v->proxy_port;
	if (v->policy_revision == endpoint->policy_revision && v->peer_identity == peer)
		return 0;
	if (!(v->flags & CT_UNJUDGED)) {
		int r = judge(skb, p, endpoint, peer, 0);
		if (!r)
			r = follow_proxy(p, v);
		if (r)
			return r;
	}
	v->policy_revision = endpoint->policy_revision;
	v->peer_identity = peer;
	return 0;
}

/* Ingress entries remember the way the last packet came, egress entries the way the first one went. */
inlined void follow_path(struct packet *p, struct conntrack_value *v, __u8 kind)
{
	if (kind == CT_EGRESS)
		p->conntrack_flags |= v->flags & CT_VIA_STACK;
	else if ((v->flags ^ p->conntrack_flags) & CT_WAY)
		v->flags ^= (v->flags ^ p->conntrack_flags) & CT_WAY;
	if (p->by_proxy)
		v->flags |= CT_BY_PROXY;
	else if (v->flags & CT_BY_PROXY && !v->proxy_port)
		v->flags &= ~CT_BY_PROXY;
}

/* The same ports may come through another frontend, or none: replies then come from that one. */
inlined void follow_frontend(const struct packet *p, struct conntrack_value *v)
{
	ip_address known;
	__builtin_memcpy(&known, v->nat_address, sizeof(known));
	if (v->nat_port == p->frontend_port && is_same(known, p->frontend))
		return;
	__builtin_memcpy(v->nat_address, &p->frontend, sizeof(known));
	v->nat_port = p->frontend_port;
}

/* 0, or the reason to drop. `v` is what ct_lookup(key, p) found. */
apart int track(CONTEXT *skb, struct packet *p, const struct endpoint_value *endpoint,
		  const struct conntrack_key *key, struct conntrack_value *v)
{
	if (!p || !endpoint || !key)
		return DROP_NO_CONFIGURATION;
	__u32 peer = key->kind == CT_EGRESS ? p->destination_identity : p->source_identity;
	int r;

	if (v && !(opens_connection(p) && ct_is_over(v))) {
		r = rejudge(skb, p, endpoint, v, peer);
		if (r)
			return r;
		if (key->kind == CT_EGRESS)
			follow_frontend(p, v);
		follow_path(p, v, key->kind);
		int is_established = v->flags & CT_OPENING && ct_establishes(v, p);
		ct_touch(v, p, length_of(skb), 0);
		if (is_established) {
			count(FLOW_ESTABLISHED, p->direction, length_of(skb));
			ct_establish(key, v);
		} else if (p->protocol == PROTO_TCP && !(v->flags & CT_OPENING) && ct_is_over(v)) {
			ct_end(key, p, v);
		}
		return 0;
	}
	if (!(p->conntrack_flags & CT_UNJUDGED) && !(p->by_proxy & BY_PROXY_JUDGED)) {
		r = judge(skb, p, endpoint, peer, 1);
		if (r)
			return r;
	}
	struct conntrack_value fresh = {
		.bytes = length_of(skb), .peer_identity = peer, .backend_id = p->backend_id,
		.policy_revision = endpoint->policy_revision, .proxy_port = p->proxy_port,
		.flags = p->conntrack_flags | (p->by_proxy ? CT_BY_PROXY : 0) };
	if (key->kind == CT_EGRESS) {	/* translation is undone where it was done */
		fresh.nat_port = p->frontend_port;
		__builtin_memcpy(fresh.nat_address, &p->frontend, sizeof(p->frontend));
	}
	if (HAS_PROXY && (p->proxy_port || p->by_proxy) && p->protocol == PROTO_TCP)
		ct_forget_opposite(key);
	p->trace = p->protocol != PROTO_TCP || opens_connection(p) ? TRACE_NEW : TRACE_MIDSTREAM;
	p->is_reported = 1;
	count(FLOW_OPENED, p->direction, length_of(skb));
	return ct_create(key, p, &fresh, v);
}

inlined void touch_reply(CONTEXT *skb, struct packet *p, struct conntrack_value *v)
{
	ct_touch(v, p, length_of(skb), 1);
}
