"""``p2psip demo``: everything on one machine, with real SIP clients."""
