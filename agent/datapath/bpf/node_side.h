/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The node's side of a connection, as far as it is the same for programs of tc and for those of the node's stack. */
#pragma once
#include "flow.h"
#include "ipcache.h"

#define GUARD_LEVEL 0xffffff	/* of a precedence: built-in rules that no policy overrules */

/* skb->priority of what came to a judged node, or from one of its pods, for an address that is not the node's. It means
 * nothing to anybody else, and forwarding replaces it. */
#define PASSED_ON 0x6d657368
enum passed_on { BY_OUTSIDE = 1, BY_POD = 2, BY_ANYBODY = 3 };

/* 0 while no host policy selects the node. */
inlined struct endpoint_value *node_endpoint(void)
{
	__u32 zero = 0;
	struct endpoint_value *v = bpf_map_lookup_elem(&mesh_node, &zero);
	return v && v->flags ? v : 0;
}

inlined int is_guard(const struct policy_value *v)
{
	return v && !v->deny && v->precedence >> 8 == GUARD_LEVEL;
}

/* Belongs it to a connection that the guard lets the other side open? Connections may be older than the policies. */
outline int is_guarded_answer(const struct packet *p, const struct endpoint_value *node, __u32 peer)
{
	struct policy_key key = {
		.prefix_length = POLICY_KEY_BITS, .endpoint_id = node->endpoint_id, .direction = !p->direction,
		.identity = peer, .protocol = p->protocol, .port = p->source_port };
	if (p->protocol != PROTO_TCP || p->tcp_flags & TCP_SYN)
		return 0;
	if (peer != ID_UNKNOWN && is_guard(bpf_map_lookup_elem(&mesh_policy, &key)))
		return 1;
	key.identity = 0;
	return is_guard(bpf_map_lookup_elem(&mesh_policy, &key));
}

inlined void begin_node_side(struct packet *p, const struct endpoint_value *node, __u8 direction)
{
	p->direction = direction;
	p->endpoint_id = node->endpoint_id;
	p->conntrack_flags = 0;
	p->rule_id = 0;
	p->match = MATCH_NONE;
}

/* To the node; `p` holds the sender's identity. `request` and `answer` are the keys of the connection if this packet is
 * one or the other. 0, or the reason to drop. */
outline int enter_as(CONTEXT *skb, struct packet *p, const struct endpoint_value *node,
		     const struct conntrack_key *request, const struct conntrack_key *answer)
{
	struct conntrack_value *v;
	begin_node_side(p, node, INGRESS);
	p->destination_identity = ID_HOST;
	if (p->kind & KIND_ICMP_ERROR)
		return 0;
	if (!opens_connection(p)) {
		v = ct_lookup(answer, p);
		if (v) {
			touch_reply(skb, p, v);
			return 0;
		}
	}
	v = ct_lookup(request, p);
	if (!v && is_guarded_answer(p, node, p->source_identity))
		return 0;
	return track(skb, p, node, request, v);
}
