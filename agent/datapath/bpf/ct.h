/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Connection tracking: one entry per flow and side. Every flow begins in one LRU for all, and moves when both sides were
 * heard to the one for TCP or the one for the rest, so that flows nobody answers cannot evict any that was. A connection of TCP
 * moves back when it is over, so that those that ended crowd out no open one. An entry past
 * its lifetime counts as absent, so nothing needs to sweep the maps. The EGRESS entry is the connection of a client; its
 * SERVICE entry only remembers the backend, and lives as long as the connection does. */
#pragma once
#include "events.h"

#define CT_WAY (CT_VIA_STACK | CT_BY_TUNNEL)

/* Field by field: a literal would be made beside it first, on a stack that has no room for two of IPv6. */
inlined void ct_key_of(struct conntrack_key *key, const ip_address *source, const ip_address *destination, __be16 source_port,
		       __be16 destination_port, __u8 protocol, __u8 kind)
{
	key->source = *source;
	key->destination = *destination;
	key->source_port = source_port;
	key->destination_port = destination_port;
	key->protocol = protocol;
	key->kind = kind;
	key->pad = 0;
}

inlined void ct_key_forward(struct conntrack_key *key, const struct packet *p, __u8 kind)
{
	ct_key_of(key, &p->source, &p->destination, p->source_port, p->destination_port, p->protocol, kind);
}

inlined void ct_key_reverse(struct conntrack_key *key, const struct packet *p, __u8 kind)
{
	ct_key_of(key, &p->destination, &p->source, p->destination_port, p->source_port, p->protocol, kind);
}

inlined struct conntrack_value *ct_alive(struct conntrack_value *v, const struct packet *p)
{
	return v && v->lifetime >= p->now ? v : 0;
}

/* An established flow, past its lifetime too. */
outline struct conntrack_value *ct_find_established(const struct conntrack_key *key)
{
	if (key->protocol == PROTO_TCP)
		return bpf_map_lookup_elem(&mesh_ct_tcp, key);
	return bpf_map_lookup_elem(&mesh_ct_other, key);
}

/* Any flow, past its lifetime too, unless a newer one with the same key is opening. */
outline struct conntrack_value *ct_find(const struct conntrack_key *key, const struct packet *p)
{
	struct conntrack_value *v = ct_find_established(key), *opening;
	if (ct_alive(v, p))
		return v;
	opening = bpf_map_lookup_elem(&mesh_ct_opening, key);
	return opening && (!v || ct_alive(opening, p)) ? opening : v;
}

inlined struct conntrack_value *ct_lookup(const struct conntrack_key *key, const struct packet *p)
{
	return ct_alive(ct_find(key, p), p);
}

/* What is looked for first: a SYN-ACK is within a flow that is opening, nearly everything else within one that is not. */
inlined struct conntrack_value *ct_lookup_likely(const struct conntrack_key *key, const struct packet *p)
{
	return p->tcp_flags & TCP_SYN ? ct_lookup(key, p) : ct_alive(ct_find_established(key), p);
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

/* No side is known to have opened the connection: of its direction of opening no SYN was seen. */
inlined int ct_began_unseen(const struct conntrack_value *v, const struct packet *p)
{
	return p->protocol == PROTO_TCP && !(v->tcp_forward & TCP_SYN);
}

inlined void ct_touch(struct conntrack_value *v, struct packet *p, __u32 length, int is_reply)
{
	if (is_reply)
		report(p, &v->reported_reply, v->tcp_reply, 1);
	else
		report(p, &v->reported_forward, v->tcp_forward, 0);
	if (ct_began_unseen(v, p))
		p->trace = TRACE_MIDSTREAM;
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
	v->lifetime = p->now + ct_lifetime(v, p);
}

/* Does this packet, in the direction of opening, establish the connection? A SYN-ACK or a single answer alone does not:
 * a flood gets those too. */
inlined int ct_establishes(const struct conntrack_value *connection, const struct packet *p)
{
	if (p->protocol != PROTO_TCP)
		return connection->flags & CT_SEEN_REPLY;
	return p->tcp_flags & connection->tcp_reply & TCP_ACK && !(p->tcp_flags & TCP_RST) && !ct_is_over(connection);
}

/* Is it over with this packet, in the direction of opening, if not before? */
inlined int ct_ends(const struct conntrack_value *connection, const struct packet *p)
{
	return ct_is_over(connection) || p->tcp_flags & TCP_RST ||
	       (p->tcp_flags & TCP_FIN && connection->flags & CT_CLOSING_REPLY);
}

/* The flow moves; what it leaves behind is past its lifetime and is recycled when its turn comes, which is cheaper than
 * deleting it. When the map does not take it, it stays where it is. */
apart int ct_establish(const struct conntrack_key *key, struct conntrack_value *opening)
{
	long r;
	if (!key || !opening)
		return 0;
	struct conntrack_value v = *opening;
	v.flags &= ~CT_OPENING;
	if (key->protocol == PROTO_TCP)
		r = bpf_map_update_elem(&mesh_ct_tcp, key, &v, BPF_ANY);
	else
		r = bpf_map_update_elem(&mesh_ct_other, key, &v, BPF_ANY);
	if (!r)
		opening->lifetime = 0;
	return 0;
}

/* An established connection that is over: it moves back, and its place is free at once. `over` is nobody's then. */
apart int ct_end(const struct conntrack_key *key, const struct packet *p, struct conntrack_value *over)
{
	if (!key || !p || !over)
		return 0;
	struct conntrack_value v = *over;
	v.flags |= CT_OPENING;
	v.lifetime = p->now + CONFIG.life_closing;
	if (!bpf_map_update_elem(&mesh_ct_opening, key, &v, BPF_ANY))
		bpf_map_delete_elem(&mesh_ct_tcp, key);
	return 0;
}

/* What a SERVICE entry says of its connection, should the connection's own entry be evicted, and where it lies. True if it
 * moved: `service` is nobody's then. */
apart int ct_follow(const struct conntrack_key *key, const struct packet *p, struct conntrack_value *service,
		    const struct conntrack_value *connection)
{
	if (!key || !p || !service || !connection)
		return 0;
	service->lifetime = connection->lifetime;
	service->tcp_forward = connection->tcp_forward;
	service->tcp_reply = connection->tcp_reply;
	service->flags = (connection->flags & ~CT_OPENING) | (service->flags & CT_OPENING);
	if (service->flags & CT_OPENING) {
		if (!ct_establishes(connection, p))
			return 0;
		ct_establish(key, service);
	} else {
		if (p->protocol != PROTO_TCP || !ct_ends(connection, p))
			return 0;
		ct_end(key, p, service);
	}
	return 1;
}

/* Somebody opens a connection through a proxy or as one: what came the other way between the same two ends is over, and none of
 * its packets may be taken for that any more. `key`: of the connection. */
apart int ct_forget_opposite(const struct conntrack_key *key)
{
	struct conntrack_key opposite;
	if (!key)
		return 0;
	ct_key_of(&opposite, &key->destination, &key->source, key->destination_port, key->source_port, key->protocol, CT_INGRESS);
	bpf_map_delete_elem(&mesh_ct_opening, &opposite);
	bpf_map_delete_elem(&mesh_ct_tcp, &opposite);
	return 0;
}

/* Somebody asks in a pod's name, from a port that the pod may have had a moment ago: what the pod opened there itself, and not
 * through a proxy, is over, or it would get the answers. */
apart int ct_forget_own(const struct conntrack_key *key, const struct packet *p)
{
	if (!key || !p)
		return 0;
	struct conntrack_value *own = ct_lookup(key, p);
	if (own && !own->proxy_port)
		own->lifetime = 0;
	return 0;
}

/* A new flow's entry, instead of the one with the same key that is over (`old`, or 0). 0 or DROP_CT_FULL. */
apart int ct_create(const struct conntrack_key *key, const struct packet *p, struct conntrack_value *v,
		    struct conntrack_value *old)
{
	if (!key || !p || !v)
		return DROP_CT_FULL;
	v->packets = 1;
	v->tcp_forward = p->tcp_flags;
	v->reported_forward = p->now;
	v->lifetime = p->now + (p->protocol == PROTO_TCP ? CONFIG.life_opening : CONFIG.life_other);
	if (old && !(old->flags & CT_OPENING)) {
		*old = *v;
		return 0;
	}
	v->flags |= CT_OPENING;
	return bpf_map_update_elem(&mesh_ct_opening, key, v, BPF_ANY) ? DROP_CT_FULL : 0;
}
