/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Who may open connections to an address that answers some sources only (loadBalancerSourceRanges). */
#pragma once
#include "packet.h"

#define SOURCE_RANGE_BITS (32 + 8 * sizeof(ip_address))	/* service id and address */

apart int is_in_source_range(__u32 service_id, address_argument given)
{
	if (NO_ARGUMENT(given))
		return 0;
	ip_address source = value_of(given);
	struct source_range_key key = { .prefix_length = SOURCE_RANGE_BITS, .service_id = service_id };
	__builtin_memcpy(key.address, &source, sizeof(source));
	return bpf_map_lookup_elem(&mesh_source_ranges, &key) != 0;
}

inlined int answers(const struct service_value *service, address_argument source)
{
	return !(service->flags & SERVICE_SOURCE_RANGES) || is_in_source_range(service->service_id, source);
}
