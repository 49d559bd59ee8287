/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Connection tracking: one entry per flow and side, in an LRU for TCP and one for the rest. An entry past its
 * lifetime counts as absent, so nothing needs to sweep the maps. The EGRESS entry is the connection of a client; its
 * SERVICE entry only remembers the backend, and lives as long as the connection does. */
#pragma once
#include "parse.h"

#define TICK_SHIFT 30	/* ticks of 2^30 ns: cheaper than a division, close enough to a second */

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

/* Whatever its lifetime. */
outline struct conntrack_value *ct_find(const struct conntrack_key *key)
{
	if (key->protocol == PROTO_TCP)
		return bpf_map_lookup_elem(&mesh_ct_tcp, key);
	return bpf_map_lookup_elem(&mesh_ct_other, key);
}

inlined struct conntrack_value *ct_lookup(const struct conntrack_key *key)
{
	struct conntrack_value *v = ct_find(key);
	return v && v->lifetime >= now_ticks() ? v : 0;
}

/* A connection that is over: a SYN on its ports opens another one. */
inlined int ct_is_over(const struct conntrack_value *v)
{
	const __u16 both = CT_CLOSING_FORWARD | CT_CLOSING_REPLY;
	return (v->tcp_forward | v->tcp_reply) & TCP_RST || (v->flags & both) == both;
}

/* Established once both sides acknowledged: a SYN that was only answered is still half open. */
inlined __u32 ct_lifetime(const struct conntrack_value *v, const struct packet *p)
{
	if (p->protocol != PROTO_TCP)
		return CONFIG.life_other;
	if (ct_is_over(v))
		return CONFIG.life_closing;
	return v->tcp_forward & v->tcp_reply & TCP_ACK ? CONFIG.life_established : CONFIG.life_opening;
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

/* What a SERVICE entry says of its connection, should the connection's own entry be evicted. */
inlined void ct_follow(struct conntrack_value *service, const struct conntrack_value *connection)
{
	service->lifetime = connection->lifetime;
	service->tcp_forward = connection->tcp_forward;
	service->tcp_reply = connection->tcp_reply;
	service->flags = connection->flags;
}

/* A new flow's entry; 0 or DROP_CT_FULL. */
outline int ct_create(const struct conntrack_key *key, const struct packet *p, struct conntrack_value *v)
{
	v->packets = 1;
	v->tcp_forward = p->tcp_flags;
	v->lifetime = now_ticks() + (p->protocol == PROTO_TCP ? CONFIG.life_opening : CONFIG.life_other);
	long r;
	if (key->protocol == PROTO_TCP)
		r = bpf_map_update_elem(&mesh_ct_tcp, key, v, BPF_ANY);
	else
		r = bpf_map_update_elem(&mesh_ct_other, key, v, BPF_ANY);
	return r ? DROP_CT_FULL : 0;
}
