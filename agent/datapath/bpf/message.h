/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A packet becomes a message about itself, to whoever sent it: what is the same for both families. */
#pragma once
#include "packet.h"

struct tcp_header {
	__be16 source, destination; __be32 sequence, acknowledged; __u8 offset, flags; __be16 window; __sum16 check;
	__be16 urgent;
};

inlined __u16 fold(__u64 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

inlined int swap_macs(struct __sk_buff *skb)
{
	__u8 macs[12];
	if (bpf_skb_load_bytes(skb, 0, macs, sizeof(macs)) < 0 || bpf_skb_store_bytes(skb, 0, macs + 6, 6, 0) < 0)
		return DROP_WRITE;
	return bpf_skb_store_bytes(skb, 6, macs, 6, 0) < 0 ? DROP_WRITE : 0;
}

/* What answers the segment `got` of a frame of that length. */
inlined void reset_of(struct tcp_header *reset, const struct tcp_header *got, const struct packet *p, __u32 frame_length)
{
	*reset = (struct tcp_header){ .source = p->destination_port, .destination = p->source_port, .offset = 5 << 4 };
	if (p->tcp_flags & TCP_ACK) {
		reset->sequence = got->acknowledged;
		reset->flags = TCP_RST;
	} else {
		__u32 length = frame_length - p->l4_offset - (got->offset >> 4) * 4;
		length += !!(p->tcp_flags & TCP_SYN) + !!(p->tcp_flags & TCP_FIN);
		reset->acknowledged = bpf_htonl(bpf_ntohl(got->sequence) + length);
		reset->flags = TCP_RST | TCP_ACK;
	}
}
