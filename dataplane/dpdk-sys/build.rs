//! Finds DPDK with pkg-config, compiles the shim and generates the bindings.

use std::env;
use std::error::Error;
use std::path::PathBuf;

/// Functions that are bound. Each is used by the `dpdk` crate; one that is not needs no binding.
const FUNCTIONS: &[&str] = &[
    "rte_(eal_init|strerror|version|thread_register|thread_unregister)",
    "rte_pktmbuf_(pool_create|free_bulk)",
    "rte_mempool_(avail_count|free)",
    "rte_ring_(create|free)",
    "rte_dev_(probe|remove)",
    "rte_eth_(from_rings|link_get_nowait|macaddr_get|allmulticast_enable|promiscuous_enable|stats_get|stats_reset)",
    "rte_eth_(rx|tx)_queue_setup",
    "rte_eth_dev_(configure|start|stop|close|info_get|get_mtu|get_port_by_name|socket_id|adjust_nb_rx_tx_desc)",
    "rte_eth_dev_rx_intr_(enable|disable|ctl_q_get_fd)",
    "towpath_.*",
];

/// Constants. Those of DPDK that are macros with a cast or a shift come as constants of the shim.
const VARIABLES: &[&str] =
    &["TOWPATH_.*", "RTE_ETH_LINK_(UP|DOWN)", "RTE_PKTMBUF_HEADROOM", "RTE_MAX_ETHPORTS"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=shim/shim.c");
    println!("cargo::rerun-if-changed=shim/shim.h");
    let library = pkg_config::Config::new()
        .range_version("22.11".."22.12")
        .probe("libdpdk")
        .map_err(|problem| format!("DPDK 22.11 is needed (Debian: libdpdk-dev): {problem}"))?;
    // A driver with functions of its own; pkg-config names no drivers, as the EAL loads them at run time.
    println!("cargo::rustc-link-lib=rte_net_ring");
    // pkg-config's own flags carry these too; the crate of that name drops all but -I and -D.
    let flags = ["-include", "rte_config.h", "-march=corei7"];

    let mut shim = cc::Build::new();
    shim.file("shim/shim.c").includes(&library.include_paths).warnings(true).opt_level(2);
    flags.iter().for_each(|flag| {
        shim.flag(flag);
    });
    shim.compile("towpath_dpdk_shim");

    bindings(&library.include_paths, &flags)
}

fn bindings(includes: &[PathBuf], flags: &[&str]) -> Result<(), Box<dyn Error>> {
    let mut builder = bindgen::Builder::default()
        .header("shim/shim.h")
        .clang_args(includes.iter().map(|path| format!("-I{}", path.display())))
        .clang_args(flags)
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        .generate_comments(false)
        .layout_tests(true)
        .derive_default(true)
        .use_core()
        .rust_edition(bindgen::RustEdition::Edition2024)
        .wrap_unsafe_ops(true)
        // Packed structures with aligned members, which Rust cannot express; only their bytes are needed, if at all.
        .opaque_type("rte_(arp_.*|ecpri_.*|l2tpv2_.*|gtp_.*|ether_hdr|flow_item_.*)");
    for name in FUNCTIONS {
        builder = builder.allowlist_function(name);
    }
    for name in VARIABLES {
        builder = builder.allowlist_var(name);
    }
    let target = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    let bindings =
        builder.generate().map_err(|problem| format!("bindings to DPDK (needs libclang): {problem}"))?;
    Ok(bindings.write_to_file(target.join("bindings.rs"))?)
}
