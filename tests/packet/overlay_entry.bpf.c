/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* BPF_PROG_TEST_RUN cannot carry tunnel metadata: here the identity comes from the mark, the outer source from the
 * priority. It cannot carry a VLAN tag beside the frame either: here the packet gets one. Everything behind that is the
 * datapath's own code. */
#include "outside.h"
#include "overlay.h"

SEC("tc")
int test_from_overlay(struct __sk_buff *skb)
{
	struct packet p = { .direction = INGRESS, .source_identity = skb->mark };
	return receive(skb, &p, skb->priority);
}

SEC("tc")
int test_tagged_from_outside(struct __sk_buff *skb)
{
	bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), skb->mark);
	struct packet p = {};
	return from_outside(skb, &p);
}

SEC("tc")
int test_tagged_by_overlay(struct __sk_buff *skb)
{
	struct packet p = { .direction = EGRESS };
	__be32 to = 0;
	bpf_skb_load_bytes(skb, DESTINATION_OFFSET, &to, sizeof(to));
	bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), skb->mark);
	struct ipcache_value *remote = ipcache_lookup(to);
	return remote ? send_by_overlay(skb, &p, remote) : TC_ACT_SHOT;
}

char _license[] SEC("license") = "Dual BSD/GPL";
