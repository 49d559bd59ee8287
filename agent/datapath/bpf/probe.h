/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Does the overlay lead to a node and back? A node's agent sends VXLAN that it made itself, with a datagram for the other
 * node's own address; the other node's program sends the datagram back through its own encapsulation; here its return is
 * written down for the agent. Neither side's stack or agent takes part in the answer. */
#pragma once
#include "answer.h"
#include "ipcache.h"

#define UDP_LENGTH 8

/* Only from nodes about themselves (check_sender has seen to it), and only for this node. */
inlined int is_probe(const struct packet *p)
{
	return p->protocol == PROTO_UDP && p->source_identity == ID_REMOTE_NODE && p->destination == CONFIG.node_address &&
	       !(p->kind & KIND_LATER_FRAGMENT) &&
	       (p->source_port == bpf_htons(PROBE_PORT) || p->destination_port == bpf_htons(PROBE_PORT));
}

inlined int note_answer(struct __sk_buff *skb, const struct packet *p)
{
	struct probe probe;
	if (bpf_skb_load_bytes(skb, p->l4_offset + UDP_LENGTH, &probe, sizeof(probe)) < 0)
		return TC_ACT_SHOT;
	struct probe_key key = { .node = p->tunnel_source, .size = probe.size ? PROBE_FULL : PROBE_SMALL };
	struct probe_value value = { .answered_ns = bpf_ktime_get_ns(), .nonce = probe.nonce, .length = skb->len };
	bpf_map_update_elem(&mesh_probes, &key, &value, BPF_ANY);
	return TC_ACT_SHOT;
}

/* The datagram turned round: swapping addresses and ports leaves both checksums right. An answer is never answered. */
inlined int return_probe(struct __sk_buff *skb, struct packet *p)
{
	struct bpf_tunnel_key key = {
		.tunnel_id = ID_REMOTE_NODE, .remote_ipv4 = bpf_ntohl(p->tunnel_source), .tunnel_ttl = TUNNEL_TTL };
	__be32 addresses[2] = { p->destination, p->source };
	__be16 ports[2] = { p->destination_port, p->source_port };
	if (swap_macs(skb) || bpf_skb_store_bytes(skb, SOURCE_OFFSET, addresses, sizeof(addresses), 0) < 0 ||
	    bpf_skb_store_bytes(skb, p->l4_offset, ports, sizeof(ports), 0) < 0 ||
	    bpf_skb_set_tunnel_key(skb, &key, sizeof(key), BPF_F_ZERO_CSUM_TX) < 0)
		return drop(skb, p, DROP_WRITE);
	set_mark(skb);
	return bpf_redirect(CONFIG.overlay_ifindex, 0);
}

outline int take_probe(struct __sk_buff *skb, struct packet *p)
{
	return p->source_port == bpf_htons(PROBE_PORT) ? note_answer(skb, p) : return_probe(skb, p);
}
