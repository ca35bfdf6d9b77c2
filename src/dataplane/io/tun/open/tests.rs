use std::cell::RefCell;

use super::*;

/// What a kernel that knows the bits of `known` agrees to; it refuses a mask with any other bit
/// as a whole (`set_offload` in drivers/net/tun.c). Also every mask that it was asked for.
fn negotiate_with(known: libc::c_uint, asked: Offloads) -> (Offloads, Refused, Vec<libc::c_uint>) {
    let masks = RefCell::new(Vec::new());
    let (taken, refused) = negotiate(asked, |mask| {
        masks.borrow_mut().push(mask);
        let einval = io::Error::from_raw_os_error(libc::EINVAL);
        if mask & !known == 0 { Ok(()) } else { Err(einval) }
    });
    (taken, refused, masks.into_inner())
}

const CSUM: libc::c_uint = libc::TUN_F_CSUM;
const TSO: libc::c_uint = CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO_ECN;
const USO: libc::c_uint = libc::TUN_F_USO4 | libc::TUN_F_USO6;
const TSO_ONLY: Offloads = Offloads { tso: true, ..Offloads::OFF };
const USO_ONLY: Offloads = Offloads { uso: true, ..Offloads::OFF };

fn refused(offloads: &[Offload]) -> Refused {
    let einval = io::Error::from_raw_os_error(libc::EINVAL);
    offloads.iter().fold(Refused::default(), |refused, &offload| refused.with(offload, &einval))
}

#[test]
fn kernel_of_today_takes_what_is_asked_for() {
    let both = Offloads { uso: true, ..TSO_ONLY };
    for (asked, taken, mask) in [
        (Offloads::AUTO, both, TSO | USO),
        (TSO_ONLY, TSO_ONLY, TSO),
        (USO_ONLY, USO_ONLY, CSUM | USO),
    ] {
        assert_eq!(negotiate_with(TSO | USO, asked), (taken, Refused::default(), vec![mask]));
    }
    let nothing = (Offloads::OFF, Refused::default(), vec![]);
    assert_eq!(negotiate_with(TSO | USO, Offloads::OFF), nothing);
}

#[test]
fn kernel_before_6_2_keeps_tcp_superpackets() {
    let (taken, no_uso, masks) = negotiate_with(TSO, Offloads::AUTO);
    assert_eq!((taken, no_uso), (TSO_ONLY, refused(&[Offload::Uso])));
    assert_eq!(masks.last(), Some(&TSO), "the mask that counts is the last");
    assert_eq!(negotiate_with(TSO, USO_ONLY).0, Offloads::OFF);
    assert_eq!(negotiate_with(TSO, USO_ONLY).1, refused(&[Offload::Uso]));
}

#[test]
fn kernel_that_refuses_the_whole_mask_gets_single_packets() {
    let (taken, both, _) = negotiate_with(0, Offloads::AUTO);
    assert_eq!((taken, both), (Offloads::OFF, refused(&[Offload::Tso, Offload::Uso])));
    assert_eq!(negotiate_with(0, TSO_ONLY).1, refused(&[Offload::Tso]));
}
