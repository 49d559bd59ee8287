/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* tc program on the overlay device. */
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

char _license[] SEC("license") = "Dual BSD/GPL";
