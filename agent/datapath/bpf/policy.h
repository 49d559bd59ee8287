/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Whether an endpoint may talk: two prefix lookups (the peer's identity, then any), the higher precedence wins. */
#pragma once
#include "events.h"

#define POLICY_KEY_BITS 96
#define L4_PROTOCOL_BITS 8

inlined __u8 match_of(const struct policy_value *v, int is_specific)
{
	if (v->l4_bits > L4_PROTOCOL_BITS)
		return is_specific ? MATCH_L3_L4 : MATCH_L4_ONLY;
	if (v->l4_bits)
		return is_specific ? MATCH_L3_PROTO : MATCH_PROTO_ONLY;
	return is_specific ? MATCH_L3_ONLY : MATCH_ALL;
}

inlined int beats(const struct policy_value *own, const struct policy_value *any)
{
	if (own->precedence != any->precedence)
		return own->precedence > any->precedence;
	return own->l4_bits >= any->l4_bits;
}

/* A peer whose identity is not known yet is only let in by an entry that lets in everything whatsoever. */
inlined int unknown_verdict(struct policy_key *key, const struct policy_value *any)
{
	if (any && any->deny)
		return DROP_DENY_RULE;
	key->protocol = 0;
	key->port = 0;
	any = bpf_map_lookup_elem(&mesh_policy, key);
	return any && !any->deny && !any->proxy_port ? 0 : DROP_UNKNOWN_IDENTITY;
}

/* 0, or the reason to drop. Leaves the deciding rule in the packet. */
outline int policy_verdict(struct packet *p, const struct endpoint_value *endpoint, __u32 peer)
{
	struct policy_key key = {
		.prefix_length = POLICY_KEY_BITS, .endpoint_id = endpoint->endpoint_id, .direction = p->direction,
		.identity = peer, .protocol = p->protocol, .port = p->policy_port };
	struct policy_value *own = peer == ID_UNKNOWN ? 0 : bpf_map_lookup_elem(&mesh_policy, &key);
	key.identity = 0;
	struct policy_value *any = bpf_map_lookup_elem(&mesh_policy, &key);
	int is_specific = own && (!any || beats(own, any));
	struct policy_value *winner = is_specific ? own : any;

	if (winner) {
		p->rule_id = winner->rule_id;
		p->match = match_of(winner, is_specific);
	}
	if (peer == ID_UNKNOWN)
		return unknown_verdict(&key, any);
	if (!winner)
		return DROP_POLICY;
	if (winner->deny)
		return DROP_DENY_RULE;
	if (winner->proxy_port && (!HAS_PROXY || !endpoint->ifindex))
		return DROP_PROXY;	/* nothing of the node itself goes to a proxy */
	p->proxy_port = winner->proxy_port;
	return 0;
}

/* A connection that no policy is asked about is told where somebody wants to know what one would say. */
inlined void watch(CONTEXT *skb, struct packet *p, const struct endpoint_value *endpoint)
{
	__u16 flag = p->direction == INGRESS ? WATCH_INGRESS : WATCH_EGRESS;
	if (!(endpoint->flags & flag))
		return;
	p->rule_id = 0;
	p->match = MATCH_NONE;
	emit(skb, p, EVENT_VERDICT, 0, WAY_ON);
}

/* Judges one direction of one endpoint; an endpoint that does not enforce it is not looked up. */
apart int judge(CONTEXT *skb, struct packet *p, const struct endpoint_value *endpoint, __u32 peer, int is_new)
{
	if (!p || !endpoint)
		return DROP_NO_CONFIGURATION;
	__u16 flag = p->direction == INGRESS ? ENFORCE_INGRESS : ENFORCE_EGRESS;
	p->proxy_port = 0;
	if (!(endpoint->flags & flag)) {
		if (is_new)
			watch(skb, p, endpoint);
		return 0;
	}
	int r = policy_verdict(p, endpoint, peer);
	if (is_new || r)
		emit(skb, p, EVENT_VERDICT, r, !r && p->proxy_port ? WAY_TO_PROXY : WAY_ON);
	return r;
}
