/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* tc programs on the overlay device and on the one below it. */
#include "outer.h"
#include "outside.h"
#include "overlay.h"
#include "underlay.h"

/* skb->priority of UDP that came to the node, but not for the overlay: for another port, or an address that is not known as
 * the node's, to which other nodes let anybody send. The stack of a node that translates it to the overlay's port keeps it;
 * it means nothing to anybody else, and forwarding replaces it. */
#define CAME_FOR_ANOTHER PASSED_ON

inlined int is_udp_with_ports(struct __sk_buff *skb, struct outer_packet *outer)
{
	return skb->protocol == bpf_htons(ETH_P_IP) && load_udp_ports(skb, outer);
}

/* It was about to leave for a pod of this node, or came from one by a bridge, for the proxy at a port that its mark names. */
apart int take_for_proxy(struct __sk_buff *skb, __u32 mark)
{
	__be16 port = mark >> PROXY_PORT_SHIFT;
	struct packet p = { .direction = mark & MARK_EGRESS ? EGRESS : INGRESS };
	int r = parse(skb, &p);
	struct endpoint_value *pod = r ? 0 : endpoint_of(p.direction == EGRESS ? p.source : p.destination);
	if (pod)
		p.endpoint_id = pod->endpoint_id;
	if (!r)
		r = assign_proxy(skb, &p, port);
	if (r)
		return drop(skb, &p, r);
	skb->mark |= mark & MARK_UNTRACKED;	/* the stack has tracked it on its way here */
	count(TO_PROXY, p.direction, skb->len);
	return TC_ACT_OK;
}

SEC("tc")
int mesh_from_overlay(struct __sk_buff *skb)
{
	if (proxy_mark(skb) == MARK_TO_PROXY)	/* what the network sends has no mark */
		return take_for_proxy(skb, skb->mark);
	struct packet p = { .direction = INGRESS };
	struct bpf_tunnel_key key;
	if ((skb->priority & ~BY_ANYBODY) == CAME_FOR_ANOTHER) {
		parse(skb, &p);
		return drop(skb, &p, DROP_ENCAPSULATION);
	}
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		bpf_tail_call(skb, &mesh_calls, FROM_OVERLAY6);	/* comes back only if there is none */
	if (bpf_skb_get_tunnel_key(skb, &key, sizeof(key), 0) < 0)
		return drop(skb, &p, DROP_NO_TUNNEL_KEY);
	p.source_identity = key.tunnel_id;
	return receive(skb, &p, bpf_htonl(key.remote_ipv4));
}

/* What leaves the node. VXLAN to a node that believes us is our own encapsulation, or it does not leave: the node's stack
 * would send it for any pod that may name a port of a node as a backend. */
SEC("tc")
int mesh_to_underlay(struct __sk_buff *skb)
{
	struct outer_packet outer = {};
	struct packet p = { .direction = EGRESS };
	if (take_mark(skb))
		return PASS;
	if (is_udp_with_ports(skb, &outer) && outer.ports[1] == CONFIG.vxlan_port && is_node(ipcache_lookup(outer.ip.daddr))) {
		take_outer(&p, &outer);
		return drop(skb, &p, DROP_ENCAPSULATION);
	}
	if (is_by_proxy(skb) && !skb->ingress_ifindex)
		return send_for_pod(skb, &p);
	struct endpoint_value *node = node_endpoint();
	int r = node ? judge_leaving(skb, &p, node) : 0;
	if (r)
		return drop(skb, &p, r);
	struct ipcache_value *to = 0;
	if (!skb->ingress_ifindex && skb->protocol == bpf_htons(ETH_P_IP))
		to = ipcache_lookup(outer.ip.daddr);
	if (is_for_overlay(to))
		return send_by_overlay(skb, &p, to);
	trace(skb, &p, POINT_NETWORK);
	return PASS;
}

/* What comes to the node. Its stack would hand UDP for one of its other ports to the overlay device for whoever may name
 * the node's own overlay port as a backend, and UDP for that port at any of its addresses, that of its pods' gateway for
 * instance. Such a packet may have passed another node's translation before, which gave it a node's source. */
SEC("tc")
int mesh_from_underlay(struct __sk_buff *skb)
{
	struct outer_packet outer = {};
	struct packet p = { .direction = INGRESS };
	int is_by_overlay = take_mark(skb);
	if (is_by_overlay)	/* its frame was another node's */
		bpf_skb_change_type(skb, FOR_THIS_HOST);
	int is_udp = is_udp_with_ports(skb, &outer);
	int is_overlay = is_udp && outer.ports[1] == CONFIG.vxlan_port && is_own_address(outer.ip.daddr);
	if (is_udp && !is_overlay)
		skb->priority = CAME_FOR_ANOTHER;
	if (is_overlay && !(outer.ip.frag_off & bpf_htons(0x2000)))
		return PASS;
	struct endpoint_value *node = node_endpoint();
	int r = node ? judge_arriving(skb, &p, node) : 0;
	if (r)
		return drop(skb, &p, r);
	trace(skb, &p, POINT_HOST);
	if (is_by_overlay || skb->protocol != bpf_htons(ETH_P_IP) || !has_outsiders() || endpoint_of(outer.ip.daddr))
		return PASS;
	return from_outside(skb, &p);
}

char _license[] SEC("license") = "Dual BSD/GPL";
