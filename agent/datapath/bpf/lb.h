/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Services: a frontend becomes one of its backends, and stays it for the life of the connection. */
#pragma once
#include "ct.h"
#include "events.h"
#include "heartbeat.h"
#include "icmp.h"
#include "ipcache.h"
#include "source_range.h"

#define NS_PER_S 1000000000ULL

inlined int is_member(__u32 service_id, __u32 backend_id)
{
	struct member_key key = { .service_id = service_id, .backend_id = backend_id };
	return bpf_map_lookup_elem(&mesh_members, &key) != 0;
}

/* May a new connection be given to it? */
inlined int is_choosable(const struct service_value *service, __u32 backend_id)
{
	struct backend_value *b = bpf_map_lookup_elem(&mesh_backends, &backend_id);
	return b && b->state == BACKEND_ACTIVE && is_member(service->service_id, backend_id);
}

inlined __u32 remembered_backend(const struct packet *p, const struct service_value *service)
{
	struct affinity_key key = { .client = p->source, .service_id = service->service_id };
	struct affinity_value *v = bpf_map_lookup_elem(&mesh_affinity, &key);
	__u64 now = bpf_ktime_get_ns();
	if (!v || now - v->last_used_ns >= service->backend_id * NS_PER_S || !is_choosable(service, v->backend_id))
		return 0;
	v->last_used_ns = now;
	return v->backend_id;
}

inlined void remember_backend(const struct packet *p, const struct service_value *service, __u32 backend_id)
{
	struct affinity_key key = { .client = p->source, .service_id = service->service_id };
	struct affinity_value v = { .last_used_ns = bpf_ktime_get_ns(), .backend_id = backend_id };
	bpf_map_update_elem(&mesh_affinity, &key, &v, BPF_ANY);
}

inlined __u32 mix(__u32 x)
{
	x = (x ^ x >> 16) * 0x7feb352d;
	x = (x ^ x >> 15) * 0x846ca68b;
	return x ^ x >> 16;
}

#ifdef IPV6_PACKETS
/* An address as a number of 32 bits, which depends on all of it. */
inlined __u32 number_of(const ip_address *a)
{
	return mix(mix(mix(a->words[0]) ^ a->words[1]) ^ a->words[2]) ^ a->words[3];
}
#else
inlined __u32 number_of(const ip_address *a)
{
	return *a;
}
#endif

/* What a connection chooses its slot by: chance, or for Maglev what every node makes of the same addresses and ports.
 * All connections of a client are one where it keeps its backend. A socket that has no port yet has chance only. */
inlined __u32 draw(const struct packet *p, const struct service_key *frontend, const struct service_value *service)
{
	int is_one = service->flags & SERVICE_AFFINITY;
	if (service->algorithm != ALGORITHM_MAGLEV || !(is_one || p->source_port))
		return bpf_get_prandom_u32();
	__u32 source_port = is_one ? 0 : p->source_port;
	__u32 x = mix(mix(number_of(&p->source)) ^ number_of(&frontend->address));
	return mix(mix(x ^ (source_port << 16 | frontend->port)) ^ p->protocol);
}

#define OTHER_TRIES 8

/* Is the flow of an open connection that was made to another address? Its translation is for that connection, and a second one
 * on the same ports would take it away. */
inlined int is_of_another(const struct conntrack_value *flow, address_argument frontend, __be16 port)
{
	if (!flow || flow->flags & CT_OPENING || ct_is_over(flow))
		return 0;
	return flow->nat_port != port || !is_same(value_of(translation_of(flow)), value_of(frontend));
}

/* Would the packet open a connection in place of an open one that was made to another address? */
apart int would_take_over(const struct packet *p, const struct conntrack_value *flow)
{
	return p && flow && opens_connection(p) && is_of_another(flow, as_argument(p->frontend), p->frontend_port);
}

/* The connection that the packet is one of, or opens, once it is translated to this backend. */
inlined void ct_key_to_backend(struct conntrack_key *key, const struct packet *p, address_argument backend, __be16 port)
{
	ip_address to = value_of(backend);
	ct_key_of(key, &p->source, &to, p->source_port, port, p->protocol, CT_EGRESS);
	if (is_same(to, p->source))
		key->source = LOOPBACK_ADDRESS;
}

/* Are the sender's ports in use towards this backend? */
outline int are_ports_taken(const struct packet *p, const struct backend_value *backend)
{
	struct conntrack_key key;
	ct_key_to_backend(&key, p, as_argument(backend->address), backend->port);
	return is_of_another(ct_lookup(&key, p), as_argument(p->destination), p->destination_port);
}

/* A backend towards which the sender's ports are free, by chance; 0 when none of the tried ones is. */
apart __u32 select_another(const struct packet *p, struct service_key *key, const struct service_value *service)
{
	if (!p || !key || !service || !service->count)
		return 0;
	for (int i = 0; i < OTHER_TRIES; i++) {
		key->slot = bpf_get_prandom_u32() % service->count + 1;
		struct service_value *slot = bpf_map_lookup_elem(&mesh_services, key);
		struct backend_value *backend = slot ? bpf_map_lookup_elem(&mesh_backends, &slot->backend_id) : 0;
		if (backend && !are_ports_taken(p, backend))
			return slot->backend_id;
	}
	return 0;
}

/* A backend id, or 0 when the service has none. */
apart __u32 select_backend(const struct packet *p, struct service_key *key, const struct service_value *service)
{
	if (!p || !key || !service)
		return 0;
	int sticky = service->flags & SERVICE_AFFINITY;
	__u32 id = sticky ? remembered_backend(p, service) : 0;
	__u16 slots = service->count;
	if (id || !slots)
		return id;
	key->slot = draw(p, key, service) % slots + 1;
	struct service_value *slot = bpf_map_lookup_elem(&mesh_services, key);
	if (!slot)
		return 0;
	id = slot->backend_id;
	if (sticky)
		remember_backend(p, service, id);
	return id;
}

#define ALL_TAKEN 0xffffffff

/* The same with a backend towards which the ports of a connection are free, or ALL_TAKEN; datagrams may share them: their answers
 * come from where the last one went. */
apart __u32 select_free_backend(const struct packet *p, struct service_key *key, const struct service_value *service)
{
	if (!p || !key || !service)
		return 0;
	__u32 id = select_backend(p, key, service);
	struct backend_value *backend = bpf_map_lookup_elem(&mesh_backends, &id);
	if (!backend || !are_ports_taken(p, backend))
		return id;
	__u32 another = select_another(p, key, service);
	return another ? another : opens_connection(p) ? ALL_TAKEN : id;
}

/* The connection that a SERVICE entry belongs to, or 0: replies prolong and end only that one. */
inlined struct conntrack_value *connection_of(const struct packet *p, const struct conntrack_value *service)
{
	struct conntrack_key key;
	ct_key_to_backend(&key, p, translation_of(service), service->nat_port);
	return ct_lookup(&key, p);
}

/* The SERVICE entry of a known connection, or 0. It becomes established with this packet, or is over, if its connection is.
 * `found` is the connection's own entry, if there is one. */
outline struct conntrack_value *recall(const struct packet *p, const struct conntrack_key *key,
				       struct conntrack_value **found)
{
	struct conntrack_value *v = ct_find(key, p);
	if (!v)
		return 0;
	struct conntrack_value *connection = connection_of(p, v);
	if (connection) {
		if (ct_follow(key, p, v, connection))
			v = ct_find(key, p);
	}
	v = ct_alive(v, p);
	*found = v ? connection : 0;
	return v;
}

/* Nobody knows the backend's address any more. Losing its slots, its service or its readiness does not end it. */
apart int is_gone(__u32 id, address_argument address, __be16 port)
{
	if (NO_ARGUMENT(address))
		return 1;
	struct backend_value *b = bpf_map_lookup_elem(&mesh_backends, &id);
	if ((b && is_same(b->address, value_of(address)) && b->port == port) || endpoint_find(address))
		return 0;
	struct ipcache_value *known = ipcache_find(address);
	return !known || known->identity == ID_UNKNOWN || known->identity >> IDENTITY_BITS;
}

/* May the packet stay with the backend its ports are known to lead to? A SYN may if it is one of a connection that is
 * known and not over, and whose backend may still be chosen by its sender: else it opens another one on the same ports. */
inlined int keeps_backend(const struct packet *p, const struct service_value *service, const struct conntrack_value *v,
			  const struct conntrack_value *connection)
{
	return !opens_connection(p) || (connection && !ct_is_over(v) && is_choosable(service, v->backend_id) &&
					answers(service, as_argument(p->source)));
}

/* A pod that is its own backend would see its own address as the peer's: it sees the loopback address instead. */
inlined int redirect_to_backend(struct __sk_buff *skb, struct packet *p, address_argument address, __be16 port)
{
	p->frontend = p->destination;
	p->frontend_port = p->destination_port;
	if (is_same(value_of(address), p->source)) {
		ip_address loopback = LOOPBACK_ADDRESS;
		p->conntrack_flags |= CT_LOOPBACK;
		keep_origin(p);
		if (nat_source(skb, p, as_argument(loopback), 0))
			return DROP_WRITE;
	}
	return nat_destination(skb, p, address, port);
}

/* What follows on the packet's ports is the stack's. `old` and `connection`: who had them before, or 0. */
apart int leave_to_stack(struct packet *p, struct conntrack_value *old, struct conntrack_value *connection)
{
	if (!p)
		return 0;
	p->kind |= KIND_UNATTENDED;
	if (old)
		old->lifetime = 0;
	if (connection)
		connection->lifetime = 0;
	return 0;
}

/* Where the packets of a new connection to the service go. 0, or the reason to drop. */
inlined_if_small int remember_service_flow(struct __sk_buff *skb, struct packet *p, const struct conntrack_key *key,
					   const struct backend_value *backend, struct conntrack_value *old)
{
	struct conntrack_value fresh = {
		.bytes = skb->len, .peer_identity = p->source_identity, .backend_id = p->backend_id,
		.nat_port = backend->port };
	__builtin_memcpy(fresh.nat_address, &backend->address, sizeof(backend->address));
	return ct_create(key, p, &fresh, old);
}

/* A new connection to the service. 0 (translated, or left to the stack), or the reason to drop. */
inlined int open_service_flow(struct __sk_buff *skb, struct packet *p, const struct conntrack_key *key,
			      struct service_key *service_key, const struct service_value *service,
			      struct conntrack_value *old, struct conntrack_value *connection)
{
	if (is_unattended(p))
		return leave_to_stack(p, old, connection);
	if (!answers(service, as_argument(p->source)))
		return DROP_NOT_IN_SOURCE_RANGE;
	p->backend_id = select_free_backend(p, service_key, service);
	if (p->backend_id == ALL_TAKEN)
		return DROP_NAT_FULL;
	struct backend_value *backend = bpf_map_lookup_elem(&mesh_backends, &p->backend_id);
	if (!backend)
		return DROP_NO_BACKEND;
	int r = remember_service_flow(skb, p, key, backend, old);
	if (!r)
		r = redirect_to_backend(skb, p, as_argument(backend->address), backend->port);
	if (!r)
		emit(skb, p, EVENT_TRANSLATION, 0, TRANSLATED_FORWARD);
	return r;
}

/* A connection stays with its backend, with or without its service, until the backend is gone. `is_ended` says so. */
inlined int continue_service_flow(struct __sk_buff *skb, struct packet *p, const struct conntrack_value *v, int *is_ended)
{
	address_argument address = translation_of(v);
	__be16 port = v->nat_port;
	p->backend_id = v->backend_id;
	*is_ended = is_gone(p->backend_id, address, port);
	return *is_ended ? DROP_NO_BACKEND : redirect_to_backend(skb, p, address, port);
}

/* 0 (translated, or older than we are), or the reason to drop. `connection`: its entry, when it is known. */
inlined int lead_to_service(struct __sk_buff *skb, struct packet *p, struct service_key *service_key,
			    const struct service_value *service, struct conntrack_value **connection)
{
	struct conntrack_key key;
	ct_key_forward(&key, p, CT_SERVICE);
	struct conntrack_value *v = recall(p, &key, connection);
	if (v && keeps_backend(p, service, v, *connection)) {
		int is_ended, r = continue_service_flow(skb, p, v, &is_ended);
		if (!is_ended || is_within_connection(p))
			return r;
	} else if (!v && is_within_connection(p)) {
		p->kind |= KIND_MIDSTREAM;	/* older than we are: whoever translated it so far goes on */
		return 0;
	}
	struct conntrack_value *former = *connection;
	*connection = 0;
	return open_service_flow(skb, p, &key, service_key, service, v, former);
}

/* 0 (translated, or not a service), or the reason to drop. `connection`: its entry, when it is known. */
inlined_if_large int translate_service(struct __sk_buff *skb, struct packet *p, struct conntrack_value **connection)
{
	struct service_key key = { .address = p->destination, .port = p->destination_port, .protocol = p->protocol };
	struct service_value *service = bpf_map_lookup_elem(&mesh_services, &key);
	return service ? lead_to_service(skb, p, &key, service, connection) : 0;
}

#ifndef IPV6_PACKETS
/* The same for a node port, of a packet to an address of this node. */
apart int translate_node_port(struct __sk_buff *skb, struct packet *p)
{
	if (!p)
		return 0;
	struct service_key key = { .port = p->destination_port, .protocol = p->protocol };
	struct service_value *service = bpf_map_lookup_elem(&mesh_services, &key);
	struct conntrack_value *connection = 0;
	return service && service->flags & SERVICE_OF_NODE ? lead_to_service(skb, p, &key, service, &connection) : 0;
}
#endif

/* A connection outlives its service. 0 (translated or not), or the reason to drop. */
inlined_if_large int translate_orphan(struct __sk_buff *skb, struct packet *p, struct conntrack_value **connection)
{
	struct conntrack_key key;
	ct_key_forward(&key, p, CT_SERVICE);
	struct conntrack_value *v = opens_connection(p) ? 0 : recall(p, &key, connection);
	int is_ended;
	return v ? continue_service_flow(skb, p, v, &is_ended) : 0;
}

#ifdef IPV6_PACKETS
/* The same two, verified apart: whoever needs the connection looks for it again. */
apart int translate_service_apart(struct __sk_buff *skb, struct packet *p)
{
	struct conntrack_value *connection = 0;
	return p ? translate_service(skb, p, &connection) : 0;
}

apart int translate_orphan_apart(struct __sk_buff *skb, struct packet *p)
{
	struct conntrack_value *connection = 0;
	return p ? translate_orphan(skb, p, &connection) : 0;
}
#endif

/* The SERVICE entry of what the pod quotes, or 0. */
inlined_if_small struct conntrack_value *recall_quoted(const struct packet *p, const struct quote *q)
{
	struct conntrack_key key;
	ct_key_of(&key, &q->destination, &q->source, q->ports[1], q->ports[0], q->protocol, CT_SERVICE);
	return ct_find(&key, p);
}

/* A pod's ICMP error about what a service sent it: the backend is told, about what it sent. 0, or the reason to drop. */
outline int related_to_service(struct __sk_buff *skb, struct packet *p)
{
	struct quote q;
	int r = read_quote_of_pod(skb, p, &q);
	if (r)
		return r;
	struct conntrack_value *v = recall_quoted(p, &q);
	if (!v)
		return DROP_UNRELATED_ICMP;
	ip_address backend = value_of(translation_of(v));
	__be16 port = v->nat_port;
	if (is_same(backend, p->source))
		return DROP_UNRELATED_ICMP;	/* its own pod: no error finds back through the loopback address */
	r = rewrite_quoted_address(skb, p, &q, QUOTED_SOURCE, q.source, backend);
	if (!r)
		r = rewrite_quoted_port(skb, p, &q, 0, port);
	return r ? r : nat_destination(skb, p, as_argument(backend), 0);
}
