//! The live view: two bars on a terminal, else a line per change.

use crate::follow::Shown;
use crate::lane::{Lane, amount, lanes, line};
use backfill_core::api::FeatureSetBackfill;
use chrono::Utc;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use kube::ResourceExt;
use std::io::IsTerminal;

/// Shows the states of one backfill, on standard error.
pub enum View {
    /// Nothing.
    None,
    /// Lines; the last one that was shown.
    Lines(String),
    /// A title and two bars.
    Bars(Box<Bars>),
}

impl View {
    /// What standard error can show.
    pub fn new(shown: Shown) -> Self {
        match shown {
            Shown::End | Shown::Json => Self::None,
            Shown::Progress if std::io::stderr().is_terminal() => Self::Bars(Box::new(Bars::new())),
            Shown::Progress => Self::Lines(String::new()),
        }
    }

    /// Shows a state.
    pub fn show(&mut self, backfill: &FeatureSetBackfill) {
        match self {
            Self::None => {}
            Self::Bars(bars) => bars.show(backfill),
            Self::Lines(last) => {
                let line = line(backfill);
                if *last != line {
                    eprintln!("{} {}: {line}", Utc::now().format("%H:%M:%SZ"), backfill.name_any());
                    *last = line;
                }
            }
        }
    }

    /// Leaves what was shown last.
    pub fn end(&self) {
        if let Self::Bars(bars) = self {
            bars.title.finish();
            bars.lanes.iter().for_each(|bar| bar.abandon());
        }
    }
}

/// A title and two bars.
pub struct Bars {
    title: ProgressBar,
    lanes: [ProgressBar; 2],
    _all: MultiProgress,
}

impl Bars {
    fn new() -> Self {
        let all = MultiProgress::new();
        let title = all.add(ProgressBar::new(0).with_style(style("{spinner} {msg}")));
        let lanes = ["offline", "online"].map(|name| {
            let bar = ProgressBar::new(1).with_prefix(name).with_style(style("  {prefix:<7} {bar:24} {msg}"));
            all.add(bar)
        });
        title.enable_steady_tick(std::time::Duration::from_millis(120));
        Self { title, lanes, _all: all }
    }

    fn show(&self, backfill: &FeatureSetBackfill) {
        self.title.set_message(format!("{}  {}", backfill.name_any(), line(backfill)));
        for (bar, lane) in self.lanes.iter().zip(lanes(backfill)) {
            let (done, total, text) = match lane {
                Lane::Skipped => (0, 1, "not part of it".to_owned()),
                Lane::Waiting => (0, 1, "waiting".to_owned()),
                Lane::Failed => (0, 1, "not replaced".to_owned()),
                Lane::Done => (1, 1, "done".to_owned()),
                Lane::Running(progress) if progress.total == 0 => (0, 1, "starting".to_owned()),
                Lane::Running(progress) => (progress.done, progress.total, amount(&progress)),
            };
            bar.set_length(total);
            bar.set_position(done);
            bar.set_message(text);
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("█▉▊▋▌▍▎▏░")
}
