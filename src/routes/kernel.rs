//! The kernel's side of routing: link, address and route of the overlay device.
