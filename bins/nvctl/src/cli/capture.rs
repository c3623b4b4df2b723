//! The command line of captures.

use std::path::PathBuf;

use clap::Subcommand;
use clap_complete::ArgValueCompleter;

use crate::complete;

const CAPTURE_EXAMPLES: &str = "Filters are tcpdump's, with words of nv: workload, group, service, namespace (each with src or dst \
before it), verdict, app, rule, inbound, outbound.\n\nExamples:\n  nvctl capture start web --filter 'tcp port 80 and not host 10.0.0.1'\n  \
nvctl capture start --group db --filter 'verdict deny'\n  nvctl capture start --from web --to db --verdict deny";

/// Whose packets, and which of them.
#[derive(Debug, clap::Args)]
pub struct CaptureWhat {
    /// Names or ids of workloads.
    #[arg(add = ArgValueCompleter::new(complete::workloads))]
    pub workloads: Vec<String>,
    /// Every member of this group.
    #[arg(long, add = ArgValueCompleter::new(complete::groups))]
    pub group: Option<String>,
    /// Every workload of this service.
    #[arg(long, conflicts_with = "group", add = ArgValueCompleter::new(complete::services))]
    pub service: Option<String>,
    /// The network of this node itself.
    #[arg(long, add = ArgValueCompleter::new(complete::nodes))]
    pub node: Option<String>,
    /// Which packets, in tcpdump's language with words of nv.
    #[arg(long, default_value = "", value_name = "FILTER")]
    pub filter: String,
    /// Only flows between this workload and --to; its interfaces are captured.
    #[arg(long, value_name = "WORKLOAD", requires = "to", add = ArgValueCompleter::new(complete::workloads))]
    pub from: Option<String>,
    /// The other end of --from.
    #[arg(long, value_name = "WORKLOAD", requires = "from", add = ArgValueCompleter::new(complete::workloads))]
    pub to: Option<String>,
    /// Only packets of flows with this verdict: allow, alert or deny.
    #[arg(long, value_parser = ["allow", "alert", "deny"])]
    pub verdict: Option<String>,
    /// Bytes that are kept of each packet; 0: all.
    #[arg(long, default_value_t = 0, value_name = "BYTES")]
    pub snap_length: u32,
    /// End after so many seconds; 0: when stopped.
    #[arg(long, default_value_t = 0)]
    pub duration: u32,
    /// Files of 2 MB each that are kept.
    #[arg(long, default_value_t = 5)]
    pub files: u32,
}

/// Capture commands.
#[derive(Debug, Subcommand)]
pub enum Capture {
    /// Start captures on workloads, on the members of a group or service, or on a node.
    #[command(after_help = CAPTURE_EXAMPLES)]
    Start {
        /// What to capture.
        #[command(flatten)]
        what: CaptureWhat,
    },
    /// Capture, and write the packets of all that was named as they come, as one pcapng stream in the order of time.
    ///
    /// Captures that it starts end with it, and leave nothing on the nodes.
    #[command(after_help = "Example: nvctl capture follow web db -w - | wireshark -k -i -")]
    Follow {
        /// What to capture.
        #[command(flatten)]
        what: CaptureWhat,
        /// Where to write it; `-` is standard output.
        #[arg(short = 'w', long, value_name = "FILE")]
        write: PathBuf,
    },
    /// List the conversations of a capture file: who, how much, application, round trip, resets.
    ///
    /// Needs no controller. What a policy makes of them: nvctl policy replay.
    #[command(after_help = "Example: nvctl capture flows web.pcapng --filter 'tcp port 443'")]
    Flows {
        /// pcapng or pcap; `-` is standard input.
        file: PathBuf,
        /// Only packets of this filter.
        #[arg(long, value_name = "FILTER")]
        filter: Option<String>,
    },
    /// Sum up a capture file: packets, bytes, time, losses, protocols, applications.
    Summary {
        /// pcapng or pcap; `-` is standard input.
        file: PathBuf,
        /// Only packets of this filter.
        #[arg(long, value_name = "FILTER")]
        filter: Option<String>,
    },
    /// Stop a capture; its file stays.
    Stop {
        /// Id.
        #[arg(add = ArgValueCompleter::new(complete::captures))]
        id: String,
    },
    /// List captures.
    List {
        /// Of this workload only.
        #[arg(add = ArgValueCompleter::new(complete::workloads))]
        workload: Option<String>,
    },
    /// Fetch a capture's file (pcapng).
    Download {
        /// Id.
        #[arg(add = ArgValueCompleter::new(complete::captures))]
        id: String,
        /// Where to write it; `-` is standard output.
        #[arg(short = 'w', long, value_name = "FILE")]
        write: PathBuf,
        /// Go on where a download broke off, if FILE.part is there.
        #[arg(long)]
        resume: bool,
        /// Classic pcap, for programs that read nothing else: packets alone.
        #[arg(long, conflicts_with = "resume")]
        pcap: bool,
        /// Packed: gzip or zstd.
        #[arg(long, value_parser = ["gzip", "zstd"], conflicts_with = "resume")]
        compress: Option<String>,
    },
    /// Show or change which violations start a capture by themselves, with the packets that led to them.
    ///
    /// Needs memory on every node: the newest packets of each workload in Monitor or Protect are kept.
    #[command(after_help = "Example: nvctl capture trigger --ring 1024 --rules 10002,0 --duration 30")]
    Trigger {
        /// KiB of packets that are kept of each workload; 0: nothing is kept, and nothing starts.
        #[arg(long, value_name = "KIB")]
        ring: Option<u32>,
        /// Rules whose violations start a capture, with commas; 0: what no rule allows; `all`: every violation.
        #[arg(long, value_name = "RULES")]
        rules: Option<String>,
        /// Seconds that a capture goes on.
        #[arg(long, value_name = "SECONDS")]
        duration: Option<u32>,
        /// Seconds after which the next violation of a workload may start another one.
        #[arg(long, value_name = "SECONDS")]
        interval: Option<u32>,
    },
    /// Delete a capture and its file.
    Delete {
        /// Id.
        #[arg(add = ArgValueCompleter::new(complete::captures))]
        id: String,
    },
}
