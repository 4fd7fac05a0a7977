"""Services for unmodified SIP clients. Nobody imports this package; entry points name it."""
