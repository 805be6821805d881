//! Faults at every step, and a crash at every step: at the end the chat says what the agent said, once. Only a send of which
//! nobody could know may be there twice, and is counted.

use super::bot_api::{Fault, Stage, long_text, private, words};
use plugway_sdk::{TaskId, host::Level, mock::Script};
use serde_json::json;
use std::time::Duration;

const FAULTS: [Fault; 8] = [
    Fault::Flood(3),
    Fault::Flood(120),
    Fault::Server,
    Fault::Unreachable,
    Fault::Page(403),
    Fault::CutBefore,
    Fault::CutAfter,
    Fault::TimeoutAfter,
];

/// A conversation: what the agent says, and what the chat says in the end.
struct Course {
    script: Script,
    text: String,
    messages: usize,
    drafts: bool,
}

fn courses() -> Vec<Course> {
    let long = long_text(5_500);
    let formatted = format!("## Title\n\n**Bold** `code`.\n\n```rust\nlet a = 1;\n```\n{}", long_text(300));
    let pieces = |text: &str| {
        let words: Vec<&str> = text.split_inclusive(' ').collect();
        words.chunks(10).map(|words| words.concat()).collect::<Vec<_>>()
    };
    let growing = |text: &str| {
        Script::new().started().every(Duration::from_millis(200)).chunks(pieces(text)).completed(text)
    };
    let twice = Script::new()
        .started()
        .every(Duration::from_millis(15))
        .chunks(pieces(&long))
        .wait(Duration::from_secs(4));
    let twice =
        twice.restart().every(Duration::from_millis(200)).chunks(pieces("Another answer in the second run."));
    let shown = format!("Title\n\nBold code.\n\nlet a = 1;\n{}", long_text(300));
    let course =
        |script, text: &str, messages| Course { script, text: text.to_owned(), messages, drafts: false };
    vec![
        course(words("A short one.", 50), "A short one.", 1),
        course(growing(&long), &long, 2),
        course(words(&formatted, 100), &shown, 1),
        course(twice.completed("Another answer in the second run."), "Another answer in the second run.", 1),
        Course { drafts: true, ..course(growing(&long), &long, 2) },
    ]
}

impl Course {
    fn stage(&self) -> (Stage, TaskId) {
        let stage = Stage::new(json!({"drafts": self.drafts}));
        let task = stage.ask(&private(), self.script.clone());
        (stage, task)
    }

    fn check(&self, stage: &Stage, task: &TaskId, what: &str) {
        let texts = stage.texts();
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(&texts.join(" ")), words(&self.text), "{what}");
        assert_eq!(texts.len(), self.messages, "{what}");
        let orphans = stage.world.borrow().orphans.len() as u64;
        let counted = stage.maybe_twice(task);
        assert!(counted >= orphans, "{what}: {orphans} messages may be there twice, {counted} are counted");
        assert_eq!(counted > 0, stage.mock.has_logged(Level::Warn, "may arrive twice"), "{what}");
        assert_eq!(stage.mock.webhooks().len(), 1, "{what}");
    }
}

#[test]
fn a_fault_at_any_call_leaves_the_whole_answer_once() {
    for course in courses() {
        let (stage, task) = course.stage();
        stage.deliver(&task, &[]).unwrap();
        course.check(&stage, &task, "without a fault");
        let calls = stage.world.borrow().calls.len();
        drop(stage);
        for call in 0..calls + 2 {
            for fault in FAULTS {
                let (stage, task) = course.stage();
                stage.fail_call(call, fault);
                stage.deliver(&task, &[]).unwrap();
                course.check(&stage, &task, &format!("{fault:?} at call {call}"));
                let unknown = matches!(fault, Fault::CutBefore | Fault::CutAfter | Fault::TimeoutAfter);
                let sends =
                    stage.world.borrow().calls.get(call).is_some_and(|call| call.method == "sendMessage");
                assert_eq!(stage.maybe_twice(&task), u64::from(unknown && sends), "{fault:?} at call {call}");
            }
        }
    }
}

#[test]
fn a_crash_at_any_step_leaves_the_whole_answer_once() {
    for course in courses() {
        let (stage, task) = course.stage();
        stage.deliver(&task, &[]).unwrap();
        let steps = stage.mock.imports_called();
        drop(stage);
        for step in 1..=steps {
            let (stage, task) = course.stage();
            stage.deliver(&task, &[step]).unwrap();
            course.check(&stage, &task, &format!("a crash after step {step} of {steps}"));
        }
    }
}

#[test]
fn faults_and_crashes_together_leave_the_whole_answer_once() {
    for course in courses() {
        let (stage, task) = course.stage();
        stage.deliver(&task, &[]).unwrap();
        let (steps, calls) = (stage.mock.imports_called(), stage.world.borrow().calls.len());
        drop(stage);
        for call in 0..calls {
            for (turn, fault) in FAULTS.into_iter().enumerate() {
                let stride = (steps / 4).max(1);
                for step in (1 + (call * 7 + turn) % stride..=steps).step_by(stride) {
                    let (stage, task) = course.stage();
                    stage.fail_call(call, fault);
                    stage.deliver(&task, &[step, step / 2 + 1, 9]).unwrap();
                    course.check(
                        &stage,
                        &task,
                        &format!("{fault:?} at call {call}, crashes after step {step}"),
                    );
                }
            }
        }
    }
}

#[test]
fn a_platform_that_is_down_for_long_gets_the_answer_when_it_is_back() {
    for fault in [Fault::Server, Fault::Unreachable, Fault::Flood(30)] {
        for course in courses() {
            let (stage, task) = course.stage();
            stage.plan(move |number, _| (number < 30).then_some(fault));
            stage.deliver(&task, &[]).unwrap();
            course.check(&stage, &task, &format!("{fault:?} for long"));
            assert_eq!(stage.maybe_twice(&task), 0);
        }
    }
}

#[test]
fn every_fault_by_chance_leaves_the_whole_answer_once() {
    for seed in 1..80_u64 {
        for course in courses() {
            let (stage, task) = course.stage();
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            stage.plan(move |_, _| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let pick = (state >> 33) as usize;
                pick.is_multiple_of(3).then(|| FAULTS[pick / 3 % FAULTS.len()])
            });
            stage.deliver(&task, &[(seed * 13 % 97) as usize, (seed * 29 % 211) as usize]).unwrap();
            course.check(&stage, &task, &format!("seed {seed}"));
        }
    }
}

#[test]
fn storage_that_fails_stops_nothing_but_time() {
    let (stage, task) = courses().remove(1).stage();
    stage.mock.break_storage(Some("disk full"));
    assert!(matches!(stage.mock.deliver(&crate::Telegram, &task), Err(plugway_sdk::Failure::Retry { .. })));
    assert!(stage.texts().is_empty());
    stage.mock.break_storage(None);
    stage.deliver(&task, &[]).unwrap();
    assert_eq!(stage.maybe_twice(&task), 0);
}
