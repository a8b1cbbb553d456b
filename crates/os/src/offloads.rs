//! What a network device does for the kernel (`ethtool -k`).

use std::io;
use std::os::fd::AsRawFd;

use crate::sys::{self, check};

/// Offloads of a device that are on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceOffloads {
    /// Received checksums are verified.
    pub rx_checksum: bool,
    /// Checksums are completed on the way out.
    pub tx_checksum: bool,
    /// TCP super-segments are cut (TSO).
    pub tso: bool,
    /// The kernel cuts super-packets late, where the device does not (GSO).
    pub gso: bool,
    /// Received segments are put together (GRO).
    pub gro: bool,
}

// linux/ethtool.h
const ETHTOOL_GRXCSUM: u32 = 0x14;
const ETHTOOL_GTXCSUM: u32 = 0x16;
const ETHTOOL_GTSO: u32 = 0x1e;
const ETHTOOL_GGSO: u32 = 0x23;
const ETHTOOL_GGRO: u32 = 0x2b;

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// `struct ifreq`, as `SIOCETHTOOL` reads it.
#[repr(C)]
struct EthtoolRequest {
    name: [u8; libc::IFNAMSIZ],
    value: *mut EthtoolValue,
    /// What other requests have there.
    _rest: [u8; 16],
}

/// Asks for the offloads of an interface. What a device does not know counts as off.
///
/// # Errors
/// `NotFound` (`ENODEV`) when there is no such interface.
pub fn device_offloads(interface: &str) -> io::Result<DeviceOffloads> {
    let socket = sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    let mut name = [0; libc::IFNAMSIZ];
    let bytes = interface.as_bytes();
    // A longer name is no interface's; the last byte ends it.
    let room = name
        .get_mut(..bytes.len())
        .filter(|_| bytes.len() < libc::IFNAMSIZ)
        .ok_or(io::ErrorKind::NotFound)?;
    room.copy_from_slice(bytes);
    let get = |command| -> io::Result<bool> {
        let mut value = EthtoolValue { command, data: 0 };
        let request = EthtoolRequest { name, value: &raw mut value, _rest: [0; 16] };
        // SAFETY: the kernel reads the request, and reads and writes the value that it points to; both outlive the call.
        let result =
            check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw const request) });
        match result {
            Ok(_) => Ok(value.data != 0),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Err(io::ErrorKind::NotFound.into()),
            Err(_) => Ok(false),
        }
    };
    Ok(DeviceOffloads {
        rx_checksum: get(ETHTOOL_GRXCSUM)?,
        tx_checksum: get(ETHTOOL_GTXCSUM)?,
        tso: get(ETHTOOL_GTSO)?,
        gso: get(ETHTOOL_GGSO)?,
        gro: get(ETHTOOL_GGRO)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_cuts_late_and_an_interface_that_is_not_there_is_not_found() {
        let loopback = device_offloads("lo").unwrap();
        assert!(loopback.gso && loopback.tx_checksum, "{loopback:?}");
        for name in ["no-such-if0", "a-name-that-no-interface-can-have"] {
            assert_eq!(device_offloads(name).unwrap_err().kind(), io::ErrorKind::NotFound);
        }
    }
}
