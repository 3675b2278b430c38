"""Policy: pure rules on what may happen. No I/O, no state; used by sandboxes, tools and (later) egress alike."""
