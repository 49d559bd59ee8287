/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Connection tracking: one entry per flow and side, in an LRU for TCP and one for the rest. An entry past its
 * lifetime counts as absent, so nothing needs to sweep the maps. */
#pragma once
#include "parse.h"

#define TICK_SHIFT 30	/* ticks of 2^30 ns: cheaper than a division, close enough to a second */
#define LIFE_TCP 21600
#define LIFE_TCP_OPENING 60
#define LIFE_TCP_CLOSED 10
#define LIFE_OTHER 60

inlined __u32 now_ticks(void)
{
	return bpf_ktime_get_coarse_ns() >> TICK_SHIFT;
}

inlined void ct_key_forward(struct conntrack_key *key, const struct packet *p, __u8 kind)
{
	*key = (struct conntrack_key){
		.source = p->source, .destination = p->destination, .source_port = p->source_port,
		.destination_port = p->destination_port, .protocol = p->protocol, .kind = kind };
}

inlined void ct_key_reverse(struct conntrack_key *key, const struct packet *p, __u8 kind)
{
	*key = (struct conntrack_key){
		.source = p->destination, .destination = p->source, .source_port = p->destination_port,
		.destination_port = p->source_port, .protocol = p->protocol, .kind = kind };
}

outline struct conntrack_value *ct_lookup(const struct conntrack_key *key)
{
	struct conntrack_value *v;
	if (key->protocol == PROTO_TCP)
		v = bpf_map_lookup_elem(&mesh_ct_tcp, key);
	else
		v = bpf_map_lookup_elem(&mesh_ct_other, key);
	return v && v->lifetime >= now_ticks() ? v : 0;
}

inlined __u32 ct_lifetime(const struct conntrack_value *v, const struct packet *p)
{
	const __u16 both = CT_CLOSING_FORWARD | CT_CLOSING_REPLY;
	if (p->protocol != PROTO_TCP)
		return LIFE_OTHER;
	if ((v->tcp_forward | v->tcp_reply) & TCP_RST || (v->flags & both) == both)
		return LIFE_TCP_CLOSED;
	return v->tcp_reply & TCP_ACK ? LIFE_TCP : LIFE_TCP_OPENING;
}

/* A connection that is over: a SYN on its ports opens another one. */
inlined int ct_is_over(const struct conntrack_value *v)
{
	const __u16 both = CT_CLOSING_FORWARD | CT_CLOSING_REPLY;
	return (v->tcp_forward | v->tcp_reply) & TCP_RST || (v->flags & both) == both;
}

inlined void ct_touch(struct conntrack_value *v, const struct packet *p, __u32 length, int is_reply)
{
	__sync_fetch_and_add(&v->packets, 1);
	__sync_fetch_and_add(&v->bytes, length);
	if (is_reply) {
		v->tcp_reply |= p->tcp_flags;
		v->flags |= CT_SEEN_REPLY | (p->tcp_flags & TCP_FIN ? CT_CLOSING_REPLY : 0);
	} else {
		v->tcp_forward |= p->tcp_flags;
		if (p->tcp_flags & TCP_FIN)
			v->flags |= CT_CLOSING_FORWARD;
	}
	v->lifetime = now_ticks() + ct_lifetime(v, p);
}

/* A new flow's entry; 0 or DROP_CT_FULL. */
outline int ct_create(const struct conntrack_key *key, const struct packet *p, struct conntrack_value *v)
{
	v->packets = 1;
	v->tcp_forward = p->tcp_flags;
	v->lifetime = now_ticks() + (p->protocol == PROTO_TCP ? LIFE_TCP_OPENING : LIFE_OTHER);
	long r;
	if (key->protocol == PROTO_TCP)
		r = bpf_map_update_elem(&mesh_ct_tcp, key, v, BPF_ANY);
	else
		r = bpf_map_update_elem(&mesh_ct_other, key, v, BPF_ANY);
	return r ? DROP_CT_FULL : 0;
}
