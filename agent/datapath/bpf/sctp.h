/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Ports of SCTP lie under a CRC32c of the whole packet (RFC 9260), which is linear: a change of a port changes the sum by that
 * change alone, moved to where the port is. Addresses are not under it. */
#pragma once
#include "packet.h"

#define CRC32C_REVERSED 0x82f63b78u
#define SCTP_CHECK_OFFSET 8

/* The product of two polynomials modulo that of CRC32c, bits reversed. */
apart __u32 crc32c_multiply(__u32 a, __u32 b)
{
	__u32 product = 0;
	for (int i = 0; i < 32; i++) {
		product ^= b & -(a >> 31);
		a <<= 1;
		b = b >> 1 ^ (CRC32C_REVERSED & -(b & 1));
	}
	return product;
}

/* What the CRC32c of `length` bytes changes by when its first four, as a little-endian number, change by `change`: the change
 * times x to the power of 8 * length. Each step has x to the power of 8 * 2^n, or where that bit is not set, 1; no branch, which
 * a verifier would follow both ways. */
apart __u32 crc32c_of_change(__u32 change, __u32 length)
{
#define ONE 0x80000000u
#define STEP(n, power) change = crc32c_multiply(ONE ^ ((ONE ^ (power)) & -(length >> (n) & 1u)), change)
	STEP(0, 0x00800000u);
	STEP(1, 0x00008000u);
	STEP(2, 0x82f63b78u);
	STEP(3, 0x6ea2d55cu);
	STEP(4, 0x18b8ea18u);
	STEP(5, 0x510ac59au);
	STEP(6, 0xb82be955u);
	STEP(7, 0xb8fdb1e7u);
	STEP(8, 0x88e56f72u);
	STEP(9, 0x74c360a4u);
	STEP(10, 0xe4172b16u);
	STEP(11, 0x0d65762au);
	STEP(12, 0x35d73a62u);
	STEP(13, 0x28461564u);
	STEP(14, 0xbf455269u);
	STEP(15, 0xe2ea32dcu);
#undef STEP
#undef ONE
	return change;
}

/* `offset`: of the port. A sum that is zero is not there yet: the sender's device makes it. A packet in fragments has its sum
 * over all of them, which nobody has at hand. 0, or DROP_WRITE. */
outline int replace_sctp_port(struct __sk_buff *skb, const struct packet *p, int offset, __be16 old, __be16 new)
{
	struct iphdr *ip = (void *)(long)skb->data + L3_OFFSET;
	__u32 sum, change = (__u16)(old ^ new);
	int is_destination = offset != p->l4_offset;
	if (p->kind & KIND_LATER_FRAGMENT)
		return 0;
	if (p->kind & KIND_FIRST_FRAGMENT)
		return DROP_WRITE;
	if ((void *)(ip + 1) > (void *)(long)skb->data_end)
		return DROP_WRITE;
	__u32 length = bpf_ntohs(ip->tot_len) + L3_OFFSET - p->l4_offset;
	if (bpf_skb_load_bytes(skb, p->l4_offset + SCTP_CHECK_OFFSET, &sum, sizeof(sum)) < 0)
		return DROP_WRITE;
	if (sum) {
		sum ^= crc32c_of_change(is_destination ? change << 16 : change, length & 0xffff);
		if (bpf_skb_store_bytes(skb, p->l4_offset + SCTP_CHECK_OFFSET, &sum, sizeof(sum), 0) < 0)
			return DROP_WRITE;
	}
	return bpf_skb_store_bytes(skb, offset, &new, 2, 0) < 0 ? DROP_WRITE : 0;
}
