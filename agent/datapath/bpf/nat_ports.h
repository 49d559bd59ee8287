/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Connections of outsiders under an address and port of the node: two entries each, FORWARD by what the client sends and
 * REPLY by what the backend sends. An entry past its lifetime counts as absent. */
#pragma once
#include "ct.h"
#include "icmp.h"
#include "nat.h"

#define NAT_TRIES 24

inlined void nat_key_of(struct nat_key *key, __be32 source, __be32 destination, __be16 source_port, __be16 destination_port,
			__u8 protocol, __u8 direction)
{
	__builtin_memset(key, 0, sizeof(*key));
	__builtin_memcpy(key->source, &source, 4);
	__builtin_memcpy(key->destination, &destination, 4);
	key->source_port = source_port;
	key->destination_port = destination_port;
	key->protocol = protocol;
	key->direction = direction;
}

inlined struct nat_value *nat_find(const struct nat_key *key, const struct packet *p)
{
	struct nat_value *v = bpf_map_lookup_elem(&mesh_nat, key);
	return v && v->lifetime >= p->now ? v : 0;
}

inlined int nat_is_over(const struct nat_value *v)
{
	return (v->tcp_forward | v->tcp_reply) & TCP_RST || v->tcp_forward & v->tcp_reply & TCP_FIN;
}

/* As of a connection of a pod (ct.h). The stack's own connections are not heard answering: their entries are needed for
 * the retries of their first packet only. */
inlined __u32 nat_lifetime(const struct nat_value *v, const struct packet *p)
{
	if (p->protocol != PROTO_TCP)
		return CONFIG.life_other;
	if (nat_is_over(v))
		return CONFIG.life_closing;
	return v->tcp_forward & v->tcp_reply & TCP_ACK ? CONFIG.life_established : CONFIG.life_opening;
}

inlined void nat_touch(struct nat_value *v, struct packet *p, __u32 length, int is_reply)
{
	if (is_reply)
		report(p, &v->reported_reply, v->tcp_reply, 1);
	else
		report(p, &v->reported_forward, v->tcp_forward, 0);
	__sync_fetch_and_add(&v->packets, 1);
	__sync_fetch_and_add(&v->bytes, length);
	if (is_reply)
		v->tcp_reply |= p->tcp_flags;
	else
		v->tcp_forward |= p->tcp_flags;
	v->lifetime = p->now + nat_lifetime(v, p);
}

/* The entry of the answers to what `key` and `v` describe. */
inlined void reply_of(const struct nat_key *key, const struct nat_value *v, struct nat_key *reply, struct nat_value *back)
{
	*reply = (struct nat_key){ .source_port = v->destination_port, .destination_port = v->source_port,
				   .protocol = key->protocol, .direction = NAT_REPLY };
	__builtin_memcpy(reply->source, v->destination, 16);
	__builtin_memcpy(reply->destination, v->source, 16);
	*back = (struct nat_value){ .source_port = key->destination_port, .destination_port = key->source_port,
				    .lifetime = v->lifetime, .backend_id = v->backend_id };
	__builtin_memcpy(back->source, key->destination, 16);
	__builtin_memcpy(back->destination, key->source, 16);
}

inlined int is_same_client(const struct nat_value *one, const struct nat_value *other)
{
	return !__builtin_memcmp(one->destination, other->destination, 4) && one->destination_port == other->destination_port &&
	       !__builtin_memcmp(one->source, other->source, 4) && one->source_port == other->source_port;
}

/* Answers are let in as long as questions are: the entry lives as long, and is made again if it was evicted. False if another
 * connection took the port meanwhile. */
outline int keep_reply(const struct nat_key *key, const struct nat_value *v)
{
	struct nat_key reply;
	struct nat_value back;
	reply_of(key, v, &reply, &back);
	struct nat_value *known = bpf_map_lookup_elem(&mesh_nat, &reply);
	if (!known)
		return !bpf_map_update_elem(&mesh_nat, &reply, &back, BPF_NOEXIST);
	if (!is_same_client(known, &back))
		return 0;
	known->lifetime = v->lifetime;
	return 1;
}

/* Does the node itself speak from this port to the backend? */
inlined int is_port_of_node(const struct packet *p, const struct nat_key *reply)
{
	struct conntrack_key key = {
		.source = CONFIG.node_address, .source_port = reply->destination_port,
		.destination_port = reply->source_port, .protocol = reply->protocol, .kind = CT_EGRESS };
	__builtin_memcpy(&key.destination, reply->source, 4);
	return ct_lookup(&key, p) != 0;
}

/* A port of the node that nobody uses towards this backend becomes the source of `v`, and answers to it are known; 0 if
 * none of the tried ones is free. */
outline int take_port(const struct packet *p, const struct nat_key *key, struct nat_value *v)
{
	__u32 node = CONFIG.node_address, count = CONFIG.nat_count;
	__u32 hash = (p->source ^ ((__u32)p->source_port << 16 | p->destination_port)) * 0x9e3779b1u;
	struct nat_key reply;
	struct nat_value back;
	if (!count)
		return 0;
	hash ^= hash >> 15;
	__builtin_memcpy(v->source, &node, 4);
	reply_of(key, v, &reply, &back);
	for (int i = 0; i < NAT_TRIES; i++) {
		v->source_port = bpf_htons(CONFIG.nat_first + (hash + i * i) % count);
		reply.destination_port = v->source_port;
		if (is_port_of_node(p, &reply))
			continue;
		struct nat_value *taken = bpf_map_lookup_elem(&mesh_nat, &reply);
		if (taken && taken->lifetime >= p->now)
			continue;
		if (!bpf_map_update_elem(&mesh_nat, &reply, &back, taken ? BPF_EXIST : BPF_NOEXIST))
			return 1;
	}
	return 0;
}

/* From outside, about an answer it got: the backend is told, about what it sent. */
inlined int translate_error_inwards(struct __sk_buff *skb, struct packet *p, const struct quote *q, const struct nat_value *v)
{
	__be32 node, backend;
	__be16 port = v->source_port, backend_port = v->destination_port;
	__builtin_memcpy(&node, v->source, 4);
	__builtin_memcpy(&backend, v->destination, 4);
	int r = rewrite_quoted_address(skb, p, q, QUOTED_SOURCE, q->source, backend);
	if (!r)
		r = rewrite_quoted_address(skb, p, q, QUOTED_DESTINATION, q->destination, node);
	if (!r)
		r = rewrite_quoted_port(skb, p, q, 0, backend_port);
	return r ? r : rewrite_quoted_port(skb, p, q, 1, port);
}

/* From the backend's side, about what the client sent: it looks as if the frontend had said it. 0, or the reason to drop. */
outline int translate_error_outwards(struct __sk_buff *skb, struct packet *p)
{
	struct quote q;
	struct nat_key key;
	__be32 client, frontend;
	int r = read_quote(skb, p, &q);
	if (r)
		return r;
	nat_key_of(&key, q.destination, q.source, q.ports[1], q.ports[0], q.protocol, NAT_REPLY);
	struct nat_value *v = nat_find(&key, p);
	if (!v)
		return DROP_UNRELATED_ICMP;
	__be16 client_port = v->destination_port, frontend_port = v->source_port;
	__builtin_memcpy(&client, v->destination, 4);
	__builtin_memcpy(&frontend, v->source, 4);
	r = rewrite_quoted_address(skb, p, &q, QUOTED_SOURCE, q.source, client);
	if (!r)
		r = rewrite_quoted_address(skb, p, &q, QUOTED_DESTINATION, q.destination, frontend);
	if (!r)
		r = rewrite_quoted_port(skb, p, &q, 0, client_port);
	if (!r)
		r = rewrite_quoted_port(skb, p, &q, 1, frontend_port);
	if (!r)
		r = nat_source(skb, p, frontend, 0);
	return r ? r : nat_destination(skb, p, client, 0);
}
