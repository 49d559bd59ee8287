/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Sockets of the node itself, and of pods on its network: a frontend becomes a backend before the socket knows it. Programs of a
 * cgroup see sockets of every pod below it: only those in the node's network namespace are touched. IPv4, also within
 * IPv6 sockets. Their answers: 1 go on, 0 refuse. */
#include "lb.h"

#define GO_ON 1
#define REFUSE 0
#define ECONNREFUSED 111
#define MAPPED bpf_htonl(0xffff)	/* ::ffff:0:0/96 */

struct place { __be32 address; __be16 port; };

/* The node's socket has no port yet that anybody knew, and no packet. */
inlined void emit_socket(struct bpf_sock_addr *ctx, __u8 type, __u8 reason, __u8 point, const struct place *backend,
			 const struct place *frontend)
{
	struct event *e = begin_event(type, reason);
	int is_back = point == TRANSLATED_BACK;
	if (!e)
		return;
	struct packet p = {
		.direction = is_back ? INGRESS : EGRESS, .protocol = ctx->protocol, .frontend_port = frontend->port };
	p.source_identity = is_back ? ID_UNKNOWN : ID_HOST;
	p.destination_identity = is_back ? ID_HOST : ID_UNKNOWN;
	p.source_port = is_back ? backend->port : 0;
	p.destination_port = is_back ? 0 : backend->port;
	fill_facts(e, &p, point);
	e->length = e->ifindex = 0;
	e->socket_cookie = bpf_get_socket_cookie(ctx);
	e->cgroup_id = bpf_get_current_cgroup_id();
	__u32 node = CONFIG.node_address;
	__builtin_memset(e->source, 0, sizeof(e->source) * 3);
	__builtin_memcpy(is_back ? e->source : e->destination, &backend->address, 4);
	__builtin_memcpy(is_back ? e->destination : e->source, &node, 4);
	__builtin_memcpy(e->frontend, &frontend->address, 4);
	bpf_ringbuf_submit(e, 0);
}

inlined int is_of_node_socket(struct bpf_sock_addr *ctx)
{
	return CONFIG.netns_cookie && bpf_get_netns_cookie(ctx) == CONFIG.netns_cookie &&
	       (ctx->protocol == PROTO_TCP || ctx->protocol == PROTO_UDP);
}

inlined void socket_key_of(struct socket_key *key, struct bpf_sock_addr *ctx, const struct place *at, __u8 direction)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->cookie = bpf_get_socket_cookie(ctx);
	__builtin_memcpy(key->address, &at->address, 4);
	key->port = at->port;
	key->protocol = ctx->protocol;
	key->direction = direction;
}

inlined void remember_place(struct bpf_sock_addr *ctx, const struct place *key_at, __u8 direction, const struct place *at,
			    __u32 backend_id)
{
	struct socket_key key;
	struct socket_value v = { .port = at->port, .backend_id = backend_id };
	socket_key_of(&key, ctx, key_at, direction);
	struct socket_value *before = bpf_map_lookup_elem(&mesh_sockets, &key);
	v.reported = before ? before->reported : 0;
	__builtin_memcpy(v.address, &at->address, 4);
	bpf_map_update_elem(&mesh_sockets, &key, &v, BPF_ANY);
}

/* A node port is one on each address of the node that records name; not on loopback. */
inlined struct service_value *find_service(struct service_key *key)
{
	struct service_value *service = bpf_map_lookup_elem(&mesh_services, key);
	if (service)
		return service;
	struct ipcache_value *at = ipcache_lookup(key->address);
	if (!at || at->identity != ID_HOST)
		return 0;
	key->address = 0;
	return bpf_map_lookup_elem(&mesh_services, key);
}

/* Datagrams of one socket to one frontend stay with their backend while it may be chosen; then 0. */
inlined __u32 former_backend(struct bpf_sock_addr *ctx, const struct place *frontend, const struct service_value *service)
{
	struct socket_key key;
	socket_key_of(&key, ctx, frontend, TO_BACKEND);
	struct socket_value *v = bpf_map_lookup_elem(&mesh_sockets, &key);
	return v && is_choosable(service, v->backend_id) ? v->backend_id : 0;
}

/* `at` is where the socket wants to go, and then where it goes. */
inlined int lead(struct bpf_sock_addr *ctx, struct place *at, int is_datagram)
{
	struct packet p = {
		.source = CONFIG.node_address, .destination = at->address, .destination_port = at->port,
		.protocol = ctx->protocol, .now = bpf_ktime_get_coarse_ns() >> TICK_SHIFT };
	struct service_key key = { .address = at->address, .port = at->port, .protocol = ctx->protocol };
	struct service_value *service = find_service(&key);
	if (!service || !(service->flags & SERVICE_OF_NODE) || is_unattended(&p))
		return GO_ON;
	__u32 former = is_datagram ? former_backend(ctx, at, service) : 0;
	__u32 id = former ? former : select_backend(&p, &key, service);
	struct backend_value *backend = bpf_map_lookup_elem(&mesh_backends, &id);
	if (!backend) {
		struct place none = {};
		count(DROP_NO_BACKEND, EGRESS, 0);
		emit_socket(ctx, EVENT_DROP, DROP_NO_BACKEND, 0, at, &none);
		bpf_set_retval(-ECONNREFUSED);
		return REFUSE;
	}
	struct place to = { .address = backend->address, .port = backend->port };
	remember_place(ctx, &to, TO_FRONTEND, at, id);
	if (!former) {
		count(FLOW_OF_NODE, EGRESS, 0);
		emit_socket(ctx, EVENT_TRANSLATION, 0, TRANSLATED_FORWARD, &to, at);
		if (is_datagram)
			remember_place(ctx, at, TO_BACKEND, &to, id);
	}
	*at = to;
	return GO_ON;
}

/* Once in REPORT_TICKS for each socket and backend. */
inlined void report_restored(struct bpf_sock_addr *ctx, struct socket_value *v, const struct place *backend,
			     const struct place *frontend)
{
	__u16 now = bpf_ktime_get_coarse_ns() >> TICK_SHIFT;
	if (v->reported && (__u16)(now - v->reported) < REPORT_TICKS)
		return;
	v->reported = now | !now;	/* 0: never */
	emit_socket(ctx, EVENT_TRANSLATION, 0, TRANSLATED_BACK, backend, frontend);
}

/* Whom the socket takes the backend for; false if `at` is no backend of it. */
inlined int restore(struct bpf_sock_addr *ctx, struct place *at)
{
	struct socket_key key;
	socket_key_of(&key, ctx, at, TO_FRONTEND);
	struct socket_value *v = bpf_map_lookup_elem(&mesh_sockets, &key);
	if (!v)
		return 0;
	struct place backend = *at;
	__builtin_memcpy(&at->address, v->address, 4);
	at->port = v->port;
	report_restored(ctx, v, &backend, at);
	return 1;
}

inlined int lead4(struct bpf_sock_addr *ctx, int is_datagram)
{
	if (!is_of_node_socket(ctx))
		return GO_ON;
	struct place at = { .address = ctx->user_ip4, .port = ctx->user_port };
	if (!lead(ctx, &at, is_datagram))
		return REFUSE;
	ctx->user_ip4 = at.address;
	ctx->user_port = at.port;
	return GO_ON;
}

inlined int restore4(struct bpf_sock_addr *ctx)
{
	if (!is_of_node_socket(ctx))
		return GO_ON;
	struct place at = { .address = ctx->user_ip4, .port = ctx->user_port };
	if (restore(ctx, &at)) {
		ctx->user_ip4 = at.address;
		ctx->user_port = at.port;
	}
	return GO_ON;
}

inlined int is_mapped(struct bpf_sock_addr *ctx)
{
	return !ctx->user_ip6[0] && !ctx->user_ip6[1] && ctx->user_ip6[2] == MAPPED;
}

inlined int lead6(struct bpf_sock_addr *ctx, int is_datagram)
{
	if (!is_of_node_socket(ctx) || !is_mapped(ctx))
		return GO_ON;
	struct place at = { .address = ctx->user_ip6[3], .port = ctx->user_port };
	if (!lead(ctx, &at, is_datagram))
		return REFUSE;
	ctx->user_ip6[3] = at.address;
	ctx->user_port = at.port;
	return GO_ON;
}

inlined int restore6(struct bpf_sock_addr *ctx)
{
	if (!is_of_node_socket(ctx) || !is_mapped(ctx))
		return GO_ON;
	struct place at = { .address = ctx->user_ip6[3], .port = ctx->user_port };
	if (restore(ctx, &at)) {
		ctx->user_ip6[3] = at.address;
		ctx->user_port = at.port;
	}
	return GO_ON;
}

SEC("cgroup/connect4")
int mesh_connect4(struct bpf_sock_addr *ctx)
{
	return lead4(ctx, 0);
}

SEC("cgroup/sendmsg4")
int mesh_sendmsg4(struct bpf_sock_addr *ctx)
{
	return lead4(ctx, 1);
}

SEC("cgroup/recvmsg4")
int mesh_recvmsg4(struct bpf_sock_addr *ctx)
{
	return restore4(ctx);
}

SEC("cgroup/getpeername4")
int mesh_getpeername4(struct bpf_sock_addr *ctx)
{
	return restore4(ctx);
}

SEC("cgroup/connect6")
int mesh_connect6(struct bpf_sock_addr *ctx)
{
	return lead6(ctx, 0);
}

SEC("cgroup/sendmsg6")
int mesh_sendmsg6(struct bpf_sock_addr *ctx)
{
	return lead6(ctx, 1);
}

SEC("cgroup/recvmsg6")
int mesh_recvmsg6(struct bpf_sock_addr *ctx)
{
	return restore6(ctx);
}

SEC("cgroup/getpeername6")
int mesh_getpeername6(struct bpf_sock_addr *ctx)
{
	return restore6(ctx);
}

char _license[] SEC("license") = "Dual BSD/GPL";
