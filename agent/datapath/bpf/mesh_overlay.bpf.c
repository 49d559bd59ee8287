/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* tc programs on the overlay device and on the one below it. */
#include "overlay.h"

SEC("tc")
int mesh_from_overlay(struct __sk_buff *skb)
{
	struct packet p = { .direction = INGRESS };
	struct bpf_tunnel_key key = {};
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
	struct packet p = { .direction = EGRESS, .protocol = PROTO_UDP };
	struct iphdr ip;
	__be16 ports[2];
	if (take_mark(skb) || skb->protocol != bpf_htons(ETH_P_IP) ||
	    bpf_skb_load_bytes_relative(skb, 0, &ip, sizeof(ip), BPF_HDR_START_NET) < 0 ||
	    ip.protocol != PROTO_UDP || ip.frag_off & bpf_htons(0x1fff) ||
	    bpf_skb_load_bytes_relative(skb, ip.ihl * 4, ports, sizeof(ports), BPF_HDR_START_NET) < 0 ||
	    ports[1] != CONFIG.vxlan_port || !is_node(ipcache_lookup(ip.daddr)))
		return PASS;
	p.source = ip.saddr;
	p.destination = ip.daddr;
	p.source_port = ports[0];
	p.destination_port = ports[1];
	return drop(skb, &p, DROP_ENCAPSULATION);
}

char _license[] SEC("license") = "Dual BSD/GPL";
