/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The bits of skb->mark by which our programs tell each other that a packet is judged already. */
#pragma once
#include "packet.h"

/* Ours, for the next program of ours it meets on this node. A packet loses it when it enters another namespace. */
inlined void set_mark(struct __sk_buff *skb)
{
	skb->mark = (skb->mark & ~CONFIG.mark) | CONFIG.mark;
}

inlined int take_mark(struct __sk_buff *skb)
{
	if (!CONFIG.mark || (skb->mark & CONFIG.mark) != CONFIG.mark)
		return 0;
	skb->mark &= ~CONFIG.mark;
	return 1;
}
