"""One snapshot on its way: measured, routed, carried, checked, retried."""
