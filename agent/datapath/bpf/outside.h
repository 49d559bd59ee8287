/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Who comes from outside to a service that others than pods may use: chosen is among all of its backends. Those of other
 * clusters are ours: the connection goes on under an address and a port of the node, through the overlay, as `world`. The
 * others are left to the node's stack, which is remembered for the life of the connection. The device has frames. */
#pragma once
#include "lb.h"
#include "nat_ports.h"
#include "node_overlay.h"

/* Are they ours to lead? The device must have frames. */
inlined int has_outsiders(void)
{
	return CONFIG.nat_count && CONFIG.flags & CONFIG_UNDERLAY_ETHERNET;
}

/* Back out by the device it came in by: to the client, or to its router. */
inlined int back_outside(struct __sk_buff *skb)
{
	set_mark(skb);
	return bpf_redirect(skb->ifindex, 0);
}

/* The packet, as the client sent it, becomes the answer to it. */
outline int tell_client(struct __sk_buff *skb, struct packet *p, int reason, __u32 what)
{
	drop(skb, p, reason);
	if (p->l4_offset != L3_OFFSET + sizeof(struct iphdr) || p->kind & (KIND_LATER_FRAGMENT | KIND_ICMP_ERROR))
		return TC_ACT_SHOT;
	if (what || p->protocol != PROTO_TCP) {
		what = what ? what : ICMP_UNREACHABLE << 8 | ICMP_PORT_UNREACHABLE;
		return become_icmp_error(skb, p, p->destination, what) ? TC_ACT_SHOT : back_outside(skb);
	}
	return p->tcp_flags & TCP_RST || become_reset(skb, p) ? TC_ACT_SHOT : back_outside(skb);
}

/* The service, and its key; 0 if the packet is for none that outsiders are led to. */
inlined struct service_value *find_outside_service(struct __sk_buff *skb, const struct packet *p, struct service_key *key)
{
	struct service_value *service = bpf_map_lookup_elem(&mesh_services, key);
	if (!service) {
		key->address = 0;
		service = bpf_map_lookup_elem(&mesh_services, key);
		if (service && !is_of_node(skb, p->destination))
			return 0;
	}
	return service && service->flags & SERVICE_OF_OUTSIDERS ? service : 0;
}

inlined int enter_overlay_as_world(struct __sk_buff *skb, struct packet *p, __be32 node)
{
	struct bpf_tunnel_key key = {
		.tunnel_id = ID_WORLD, .remote_ipv4 = bpf_ntohl(node), .tunnel_ttl = TUNNEL_TTL };
	if (bpf_skb_set_tunnel_key(skb, &key, sizeof(key), BPF_F_ZERO_CSUM_TX) < 0)
		return drop(skb, p, DROP_WRITE);
	trace(skb, p, POINT_OVERLAY);
	count(TO_OVERLAY, INGRESS, skb->len);
	skb->priority = 0;
	set_mark(skb);
	return bpf_redirect(CONFIG.overlay_ifindex, 0);
}

/* As `world`, whoever it was: a node port may be used by anybody. */
outline int forward_outside(struct __sk_buff *skb, struct packet *p, const struct nat_value *to)
{
	__be32 source, backend;
	__be16 source_port = to->source_port, port = to->destination_port;
	__builtin_memcpy(&source, to->source, 4);
	__builtin_memcpy(&backend, to->destination, 4);
	struct ipcache_value *at = ipcache_lookup(backend);
	__be32 node = at ? tunnel_of(at) : 0;
	if (!node)
		return tell_client(skb, p, DROP_NO_BACKEND, 0);
	if (is_too_big(skb, p))
		return tell_client(skb, p, DROP_FRAG_NEEDED,
				   CONFIG.overlay_mtu << 16 | ICMP_UNREACHABLE << 8 | ICMP_FRAG_NEEDED);
	int r = decrement_ttl(skb);
	if (r)
		return tell_client(skb, p, r, ICMP_TIME_EXCEEDED << 8);
	p->frontend = p->destination;
	p->frontend_port = p->destination_port;
	p->destination_identity = at->identity;
	keep_origin(p);
	if (nat_source(skb, p, source, source_port) || nat_destination(skb, p, backend, port))
		return drop(skb, p, DROP_WRITE);
	if (p->trace == TRACE_NEW)
		emit(skb, p, EVENT_TRANSLATION, 0, TRANSLATED_FORWARD);
	return enter_overlay_as_world(skb, p, node);
}

/* An error about an answer that a client got; what is about anything else is the stack's. */
outline int error_from_outside(struct __sk_buff *skb, struct packet *p)
{
	struct quote q;
	struct nat_key key;
	__be32 node, backend;
	if (read_quote(skb, p, &q))
		return PASS;
	nat_key_of(&key, q.destination, q.source, q.ports[1], q.ports[0], q.protocol, NAT_FORWARD);
	struct nat_value *v = nat_find(&key, p);
	if (!v || v->flags & NAT_LEFT)
		return PASS;
	__builtin_memcpy(&node, v->source, 4);
	__builtin_memcpy(&backend, v->destination, 4);
	struct ipcache_value *at = ipcache_lookup(backend);
	__be32 tunnel = at ? tunnel_of(at) : 0;
	if (!tunnel)
		return drop(skb, p, DROP_NO_BACKEND);
	int r = decrement_ttl(skb);
	if (!r)
		r = translate_error_inwards(skb, p, &q, v);
	if (!r)
		r = nat_source(skb, p, node, 0);
	if (!r)
		r = nat_destination(skb, p, backend, 0);
	return r ? drop(skb, p, r) : enter_overlay_as_world(skb, p, tunnel);
}

/* A new connection, or one whose backend may not be used any more. */
outline int open_outside(struct __sk_buff *skb, struct packet *p, const struct nat_key *key)
{
	struct service_key service_key = {
		.address = p->destination, .port = p->destination_port, .protocol = p->protocol };
	struct service_value *service = find_outside_service(skb, p, &service_key);
	if (!service || is_unattended(p) || endpoint_of(p->source) || is_own_address(p->source))
		return PASS;
	if (!answers(service, p->source))
		return drop(skb, p, DROP_NOT_IN_SOURCE_RANGE);
	p->backend_id = select_backend(p, &service_key, service);
	struct backend_value *backend = bpf_map_lookup_elem(&mesh_backends, &p->backend_id);
	if (!backend)
		return PASS;	/* the stack refuses */
	struct nat_value fresh = { .backend_id = p->backend_id, .packets = 1, .bytes = skb->len };
	fresh.tcp_forward = p->tcp_flags;
	fresh.reported_forward = p->now;
	fresh.lifetime = p->now + nat_lifetime(&fresh, p);
	__builtin_memcpy(fresh.destination, &backend->address, 4);
	fresh.destination_port = backend->port;
	if (backend->cluster_id == CONFIG.cluster_id) {
		fresh.flags = NAT_LEFT;
		bpf_map_update_elem(&mesh_nat, key, &fresh, BPF_ANY);
		return PASS;
	}
	if (!take_port(p, key, &fresh))
		return tell_client(skb, p, DROP_NAT_FULL, 0);
	bpf_map_update_elem(&mesh_nat, key, &fresh, BPF_ANY);
	count(FLOW_OF_OUTSIDERS, INGRESS, skb->len);
	p->trace = TRACE_NEW;
	p->is_reported = 1;
	return forward_outside(skb, p, &fresh);
}

/* Would it be led to this backend if it came now? */
inlined int is_open_to_outsiders(struct __sk_buff *skb, const struct packet *p, __u32 backend_id)
{
	struct service_key key = {
		.address = p->destination, .port = p->destination_port, .protocol = p->protocol };
	struct service_value *service = find_outside_service(skb, p, &key);
	return service && answers(service, p->source) && is_choosable(service, backend_id);
}

/* May the packet stay with the backend that its ports are known to lead to? A SYN, and a datagram that the stack translates,
 * only while that backend takes new connections: the stack knows no other. */
outline int stays(struct __sk_buff *skb, const struct packet *p, const struct nat_value *v)
{
	__be32 address;
	__builtin_memcpy(&address, v->destination, 4);
	if (opens_connection(p) || (v->flags & NAT_LEFT && p->protocol == PROTO_UDP))
		return !nat_is_over(v) && is_open_to_outsiders(skb, p, v->backend_id);
	return !is_gone(v->backend_id, address, v->destination_port);
}

/* With the device's own MAC, and for no VLAN on top of it. A device also sees others' frames, flooded or while somebody watches
 * all: the stack takes none of them, and an answer to one would be a second one. A tag that the device took off would be
 * in the frame again behind the overlay. */
inlined int is_frame_of_device(const struct __sk_buff *skb)
{
	return skb->pkt_type == FOR_THIS_HOST && !skb->vlan_present;
}

/* What is not for a service of ours goes on to the stack. */
outline int from_outside(struct __sk_buff *skb, struct packet *p)
{
	struct nat_key key;
	__builtin_memset(p, 0, sizeof(*p));
	p->direction = INGRESS;
	p->source_identity = ID_WORLD;
	if (!is_frame_of_device(skb) || parse(skb, p))
		return PASS;
	if (p->kind & KIND_ICMP_ERROR)
		return error_from_outside(skb, p);
	if (p->protocol != PROTO_TCP && p->protocol != PROTO_UDP)
		return PASS;
	nat_key_of(&key, p->source, p->destination, p->source_port, p->destination_port, p->protocol, NAT_FORWARD);
	if (!endpoint_of(p->source))
		remember_ports(skb, p);
	struct nat_value *v = nat_find(&key, p);
	if (v && stays(skb, p, v)) {
		nat_touch(v, p, skb->len, 0);
		if (v->flags & NAT_LEFT)
			return PASS;
		if (keep_reply(&key, v))
			return forward_outside(skb, p, v);
	}
	if (p->protocol == PROTO_TCP && !opens_connection(p))
		return v && !(v->flags & NAT_LEFT) ? tell_client(skb, p, DROP_NO_BACKEND, 0) : PASS;
	return open_outside(skb, p, &key);
}
