/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Programs of netfilter where the node's stack hands packets to its own processes, or sends them, after all translation. What the
 * programs of tc passed on, but the stack led to the node, is judged here: as whoever sent it, by the port of the process.
 * And whatever device it comes or leaves by, the stack makes no packet one of the overlay. */
#include "stack.h"
#include "heartbeat.h"
#include "load.h"
#include "node_side.h"
#include "outer.h"

#define NFCT_BITS 7UL	/* of skb->_nfct; the rest points to the connection */
#define NFCT_REPLY 3	/* and above: the packet is an answer */

#define TAKE_TUPLE(to, connection, direction) do { \
	(to)->source = BPF_CORE_READ(connection, tuplehash[direction].tuple.src.u3.ip); \
	(to)->destination = BPF_CORE_READ(connection, tuplehash[direction].tuple.dst.u3.ip); \
	(to)->source_port = BPF_CORE_READ(connection, tuplehash[direction].tuple.src.u.all); \
	(to)->destination_port = BPF_CORE_READ(connection, tuplehash[direction].tuple.dst.u.all); \
} while (0)

/* Before the stack translated it, as its answers will be again when they pass the programs of tc. */
outline int take_original(const struct bpf_nf_ctx *context, struct conntrack_key *key)
{
	unsigned long state = context->skb->_nfct;
	const struct nf_conn *connection = (const void *)(state & ~NFCT_BITS);
	if (!connection || !bpf_core_field_exists(((struct nf_conn *)0)->tuplehash))
		return 0;
	__be16 ports[] = { key->source_port, key->destination_port };
	if ((state & NFCT_BITS) >= NFCT_REPLY)
		TAKE_TUPLE(key, connection, 1);
	else
		TAKE_TUPLE(key, connection, 0);
	if (key->protocol != PROTO_TCP && key->protocol != PROTO_UDP && key->protocol != PROTO_SCTP) {
		key->source_port = ports[0];
		key->destination_port = ports[1];
	}
	return 0;
}

inlined void reverse(struct conntrack_key *to, const struct conntrack_key *from, __u8 kind)
{
	*to = (struct conntrack_key){
		.source = from->destination, .destination = from->source, .source_port = from->destination_port,
		.destination_port = from->source_port, .protocol = from->protocol, .kind = kind };
}

/* 0, or the reason to drop. */
outline int judge_delivered(struct bpf_nf_ctx *context, struct packet *p, const struct endpoint_value *node)
{
	struct conntrack_key request, answer;
	struct iphdr ip;
	int r = load_address(context, p, &ip);
	if (r)
		return r;
	r = load_transport(context, p, ip.ihl * 4);
	if (r)
		return r;
	int is_of_pod = (context->skb->priority & BY_ANYBODY) == BY_POD;
	if (is_of_pod && is_unattended(p))
		return 0;	/* it may be to the API server, without which there will be no agent */
	struct endpoint_value *pod = is_of_pod ? endpoint_of(p->source) : 0;
	p->source_identity = pod ? pod->identity : identity_outside(p->source);
	ct_key_forward(&request, p, CT_INGRESS);
	take_original(context, &request);
	reverse(&answer, &request, CT_EGRESS);
	if (request.destination != p->destination) {
		p->frontend = request.destination;
		p->frontend_port = request.destination_port;
	}
	return enter_as(context, p, node, &request, &answer);
}

inlined int is_passed_on(const struct bpf_nf_ctx *context)
{
	__u32 priority = context->skb->priority;
	return (priority & ~BY_ANYBODY) == PASSED_ON && priority & BY_ANYBODY;
}

SEC("netfilter")
int mesh_delivered(struct bpf_nf_ctx *context)
{
	struct packet p = { .direction = INGRESS };
	struct endpoint_value *node = is_passed_on(context) ? node_endpoint() : 0;
	int r = node ? judge_delivered(context, &p, node) : 0;
	if (r) {
		drop(context, &p, r);
		return NF_DROP;
	}
	trace(context, &p, POINT_HOST);
	return NF_ACCEPT;
}

/* The node's own IPv6 is not judged but dropped. */
SEC("netfilter")
int mesh_delivered_ipv6(struct bpf_nf_ctx *context)
{
	struct packet p = { .direction = INGRESS, .kind = KIND_IPV6 };
	if (!is_passed_on(context) || !node_endpoint())
		return NF_ACCEPT;
	drop(context, &p, DROP_UNSUPPORTED_L3);
	return NF_DROP;
}

inlined int has_mark(const struct bpf_nf_ctx *context)
{
	return CONFIG.mark && (context->skb->mark & CONFIG.mark) == CONFIG.mark;
}

inlined int refuse_encapsulation(struct bpf_nf_ctx *context, const struct outer_packet *outer, __u8 direction)
{
	struct packet p = { .direction = direction };
	take_outer(&p, outer);
	drop(context, &p, DROP_ENCAPSULATION);
	return NF_DROP;
}

/* Did its sender mean another port or address? */
inlined int is_translated(const struct bpf_nf_ctx *context, const struct outer_packet *outer)
{
	struct conntrack_key sent = {
		.source = outer->ip.saddr, .destination = outer->ip.daddr, .source_port = outer->ports[0],
		.destination_port = outer->ports[1], .protocol = PROTO_UDP };
	take_original(context, &sent);
	return sent.destination != outer->ip.daddr || sent.destination_port != outer->ports[1];
}

/* For the overlay, by another device than its own: what mesh_from_underlay says of those. */
SEC("netfilter")
int mesh_to_overlay_socket(struct bpf_nf_ctx *context)
{
	struct outer_packet outer = {};
	if (device_of(context) == CONFIG.underlay_ifindex || !load_udp_ports(context, &outer) ||
	    outer.ports[1] != CONFIG.vxlan_port)
		return NF_ACCEPT;
	if (is_own_address(outer.ip.daddr) && !is_translated(context, &outer))
		return NF_ACCEPT;
	return refuse_encapsulation(context, &outer, INGRESS);
}

/* Of what leaves by any device: VXLAN to a node that believes us is our own, as in mesh_to_underlay. And nothing else has the
 * overlay's own address and port for its source, whoever sends it, or what is sent to the overlay would be answers to it: the
 * stack remembers no connection whose first packet is dropped here. */
SEC("netfilter")
int mesh_leaves_stack(struct bpf_nf_ctx *context)
{
	struct outer_packet outer = {};
	if (has_mark(context) || !load_udp_ports(context, &outer))
		return NF_ACCEPT;
	if (outer.ports[1] == CONFIG.vxlan_port && is_node(ipcache_lookup(outer.ip.daddr)))
		return refuse_encapsulation(context, &outer, EGRESS);
	if (outer.ports[0] == CONFIG.vxlan_port && is_own_address(outer.ip.saddr))
		return refuse_encapsulation(context, &outer, EGRESS);
	return NF_ACCEPT;
}

char _license[] SEC("license") = "Dual BSD/GPL";
