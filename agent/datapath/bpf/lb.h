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

/* What a connection chooses its slot by: chance, or for Maglev what every node makes of the same addresses and ports.
 * All connections of a client are one where it keeps its backend. A socket that has no port yet has chance only. */
inlined __u32 draw(const struct packet *p, const struct service_key *frontend, const struct service_value *service)
{
	int is_one = service->flags & SERVICE_AFFINITY;
	if (service->algorithm != ALGORITHM_MAGLEV || !(is_one || p->source_port))
		return bpf_get_prandom_u32();
	__u32 source_port = is_one ? 0 : p->source_port;
	__u32 x = mix(mix(p->source) ^ frontend->address);
	return mix(mix(x ^ (source_port << 16 | frontend->port)) ^ p->protocol);
}

#define OTHER_TRIES 8

/* Is the flow of an open connection that was made to another address? Its translation is for that connection, and a second one
 * on the same ports would take it away. */
inlined int is_of_another(const struct conntrack_value *flow, __be32 frontend, __be16 port)
{
	__be32 known;
	if (!flow || flow->flags & CT_OPENING || ct_is_over(flow))
		return 0;
	__builtin_memcpy(&known, flow->nat_address, 4);
	return flow->nat_port != port || known != frontend;
}

/* Would the packet open a connection in place of an open one that was made to another address? */
apart int would_take_over(const struct packet *p, const struct conntrack_value *flow)
{
	return p && flow && opens_connection(p) && is_of_another(flow, p->frontend, p->frontend_port);
}

/* Are the sender's ports in use towards this backend? */
outline int are_ports_taken(const struct packet *p, const struct backend_value *backend)
{
	struct conntrack_key key = {
		.source = backend->address == p->source ? CONFIG.loopback_address : p->source,
		.destination = backend->address, .source_port = p->source_port, .destination_port = backend->port,
		.protocol = p->protocol, .kind = CT_EGRESS };
	return is_of_another(ct_lookup(&key, p), p->destination, p->destination_port);
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
	__be32 backend;
	__builtin_memcpy(&backend, service->nat_address, 4);
	struct conntrack_key key = {
		.source = backend == p->source ? CONFIG.loopback_address : p->source, .destination = backend,
		.source_port = p->source_port, .destination_port = service->nat_port, .protocol = p->protocol,
		.kind = CT_EGRESS };
	return ct_lookup(&key, p);
}

/* The SERVICE entry of a known connection, or 0. It becomes established with this packet if its connection does.
 * `found` is the connection's own entry, if there is one. */
outline struct conntrack_value *recall(const struct packet *p, const struct conntrack_key *key,
				       struct conntrack_value **found)
{
	struct conntrack_value *v = ct_find(key, p);
	if (!v)
		return 0;
	struct conntrack_value *connection = connection_of(p, v);
	if (connection) {
		ct_follow(v, connection);
		if (v->flags & CT_OPENING && ct_establishes(connection, p)) {
			ct_establish(key, v);
			v = ct_find(key, p);
		}
	}
	v = ct_alive(v, p);
	*found = v ? connection : 0;
	return v;
}

/* Nobody knows the backend's address any more. Losing its slots, its service or its readiness does not end it. */
apart int is_gone(__u32 id, __be32 address, __be16 port)
{
	struct backend_value *b = bpf_map_lookup_elem(&mesh_backends, &id);
	if ((b && b->address == address && b->port == port) || endpoint_of(address))
		return 0;
	struct ipcache_value *known = ipcache_lookup(address);
	return !known || known->identity == ID_UNKNOWN || known->identity >> IDENTITY_BITS;
}

/* May the packet stay with the backend its ports are known to lead to? A SYN may if it is one of a connection that is
 * known and not over, and whose backend may still be chosen by its sender: else it opens another one on the same ports. */
inlined int keeps_backend(const struct packet *p, const struct service_value *service, const struct conntrack_value *v,
			  const struct conntrack_value *connection)
{
	return !opens_connection(p) || (connection && !ct_is_over(v) && is_choosable(service, v->backend_id) &&
					answers(service, p->source));
}

/* A pod that is its own backend would see its own address as the peer's: it sees the loopback address instead. */
inlined int redirect_to_backend(struct __sk_buff *skb, struct packet *p, __be32 address, __be16 port)
{
	p->frontend = p->destination;
	p->frontend_port = p->destination_port;
	if (address == p->source) {
		p->conntrack_flags |= CT_LOOPBACK;
		keep_origin(p);
		if (nat_source(skb, p, CONFIG.loopback_address, 0))
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

/* A new connection to the service. 0 (translated, or left to the stack), or the reason to drop. */
inlined int open_service_flow(struct __sk_buff *skb, struct packet *p, const struct conntrack_key *key,
			      struct service_key *service_key, const struct service_value *service,
			      struct conntrack_value *old, struct conntrack_value *connection)
{
	if (is_unattended(p))
		return leave_to_stack(p, old, connection);
	if (!answers(service, p->source))
		return DROP_NOT_IN_SOURCE_RANGE;
	p->backend_id = select_free_backend(p, service_key, service);
	if (p->backend_id == ALL_TAKEN)
		return DROP_NAT_FULL;
	struct backend_value *backend = bpf_map_lookup_elem(&mesh_backends, &p->backend_id);
	if (!backend)
		return DROP_NO_BACKEND;
	struct conntrack_value fresh = {
		.bytes = skb->len, .peer_identity = p->source_identity, .backend_id = p->backend_id,
		.nat_port = backend->port };
	__builtin_memcpy(fresh.nat_address, &backend->address, 4);
	int r = ct_create(key, p, &fresh, old);
	if (!r)
		r = redirect_to_backend(skb, p, backend->address, backend->port);
	if (!r)
		emit(skb, p, EVENT_TRANSLATION, 0, TRANSLATED_FORWARD);
	return r;
}

/* A connection stays with its backend, with or without its service, until the backend is gone. `is_ended` says so. */
inlined int continue_service_flow(struct __sk_buff *skb, struct packet *p, const struct conntrack_value *v, int *is_ended)
{
	__be32 address;
	__builtin_memcpy(&address, v->nat_address, 4);
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
outline int translate_service(struct __sk_buff *skb, struct packet *p, struct conntrack_value **connection)
{
	struct service_key key = { .address = p->destination, .port = p->destination_port, .protocol = p->protocol };
	struct service_value *service = bpf_map_lookup_elem(&mesh_services, &key);
	return service ? lead_to_service(skb, p, &key, service, connection) : 0;
}

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

/* A connection outlives its service. 0 (translated or not), or the reason to drop. */
outline int translate_orphan(struct __sk_buff *skb, struct packet *p, struct conntrack_value **connection)
{
	struct conntrack_key key;
	ct_key_forward(&key, p, CT_SERVICE);
	struct conntrack_value *v = opens_connection(p) ? 0 : recall(p, &key, connection);
	int is_ended;
	return v ? continue_service_flow(skb, p, v, &is_ended) : 0;
}

/* A pod's ICMP error about what a service sent it: the backend is told, about what it sent. 0, or the reason to drop. */
outline int related_to_service(struct __sk_buff *skb, struct packet *p)
{
	struct quote q;
	int r = read_quote_of_pod(skb, p, &q);
	if (r)
		return r;
	struct conntrack_key key = {
		.source = q.destination, .destination = q.source, .source_port = q.ports[1],
		.destination_port = q.ports[0], .protocol = q.protocol, .kind = CT_SERVICE };
	struct conntrack_value *v = ct_find(&key, p);
	if (!v)
		return DROP_UNRELATED_ICMP;
	__be32 backend;
	__builtin_memcpy(&backend, v->nat_address, 4);
	__be16 port = v->nat_port;
	if (backend == p->source)
		return DROP_UNRELATED_ICMP;	/* its own pod: no error finds back through the loopback address */
	r = rewrite_quoted_address(skb, p, &q, QUOTED_SOURCE, q.source, backend);
	if (!r)
		r = rewrite_quoted_port(skb, p, &q, 0, port);
	return r ? r : nat_destination(skb, p, backend, 0);
}
