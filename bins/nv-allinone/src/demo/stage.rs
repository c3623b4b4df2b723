//! The terminal: redrawn when it is one, plain lines when it is not.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::rest::{Rest, RestError};
use super::view::{Kind, Line, Paint, View};

const REDRAW: Duration = Duration::from_millis(500);

/// What is shown, and where.
#[derive(Debug)]
pub(crate) struct Stage {
    view: Mutex<View>,
    terminal: bool,
    paint: Paint,
}

impl Stage {
    /// Standard output, colored if it is a terminal and `NO_COLOR` is not set.
    pub(crate) fn stdout() -> Self {
        let terminal = std::io::stdout().is_terminal();
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            view: Mutex::default(),
            terminal,
            paint: Paint {
                colored: terminal && !refused,
            },
        }
    }

    /// Adds a line to the story.
    pub(crate) fn say(&self, kind: Kind, text: &str) {
        let line = Line {
            kind,
            text: text.to_owned(),
        };
        if !self.terminal {
            write(&[self.paint.line(&line)]);
        }
        self.view().story.push(line);
    }

    /// After a step: off a terminal the tables are printed once.
    pub(crate) fn finish_step(&self) {
        if !self.terminal {
            let lines = self.view().tables(self.paint);
            write(
                &lines
                    .iter()
                    .map(|line| format!("      {line}"))
                    .collect::<Vec<_>>(),
            );
        }
    }

    /// Keeps the view fresh, and the screen if there is one. Ends only by being dropped.
    pub(crate) async fn run(&self, rest: &Rest) {
        if self.terminal {
            raw("\x1b[2J");
        }
        loop {
            if let Err(error) = self.refresh(rest).await {
                tracing::debug!(%error, "view not refreshed");
            }
            if self.terminal {
                self.draw();
            }
            tokio::time::sleep(REDRAW).await;
        }
    }

    /// Asks for everything that is shown.
    pub(crate) async fn refresh(&self, rest: &Rest) -> Result<(), RestError> {
        let workloads = rest.workloads().await?;
        let services = rest.services().await?;
        let conversations = rest.conversations().await?;
        let rules = rest.rules().await?;
        let violations = rest.violations().await?;
        let mut view = self.view();
        let story = std::mem::take(&mut view.story);
        *view = View {
            story,
            workloads,
            services,
            conversations,
            rules,
            violations,
        };
        Ok(())
    }

    /// Leaves the last picture on the screen.
    pub(crate) fn close(&self) {
        if self.terminal && !self.view().workloads.is_empty() {
            self.draw();
        }
    }

    fn draw(&self) {
        let lines = self.view().render(self.paint);
        // Home, each line to its end, then everything below: no flicker, as nothing is cleared first.
        let mut text = String::from("\x1b[H");
        for line in lines {
            text.push_str(&line);
            text.push_str("\x1b[K\r\n");
        }
        text.push_str("\x1b[J");
        raw(&text);
    }

    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn raw(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// A reader that has gone away is no reason to fail.
fn write(lines: &[String]) {
    let mut out = std::io::stdout().lock();
    for line in lines {
        let _ = writeln!(out, "{line}");
    }
}
