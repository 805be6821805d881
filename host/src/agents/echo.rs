//! The `echo` agent: deterministic, for the quick start, demonstrations and tests. It needs nothing and nobody.
//!
//! Usage counts words as tokens. A text that begins with a slash and is no directive is echoed like any other.

use std::time::Duration;

use async_stream::stream;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Agent, AgentSignal, AgentStream, Turn};
use crate::domain::{AgentEvent, ErrorType, HistoryMessage, TaskId, TaskInput, ToolResult};

/// Settings of an `echo` agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EchoConfig {
    /// Time between two pieces of the answer. Default 20 ms.
    #[serde(with = "humantime_serde")]
    pub chunk_delay: Duration,
    /// Most words or steps that a directive may ask for. Default 100,000.
    pub max_count: u32,
    /// Longest time that `/sleep` may ask for. Default 1 h.
    #[serde(with = "humantime_serde")]
    pub max_sleep: Duration,
}

impl Default for EchoConfig {
    fn default() -> Self {
        Self {
            chunk_delay: Duration::from_millis(20),
            max_count: 100_000,
            max_sleep: Duration::from_secs(3600),
        }
    }
}

/// The agent.
#[derive(Debug)]
pub(super) struct Echo {
    config: EchoConfig,
}

/// What a text asks for.
#[derive(Debug, PartialEq)]
enum Directive {
    Say(String),
    Words(u32),
    Tool(Call),
    Ask(Vec<Call>),
    Sleep(Duration),
    Progress(u32),
    Fail(String),
    Silent,
}

/// A call of a tool.
#[derive(Debug, PartialEq)]
struct Call {
    name: String,
    arguments: String,
    value: Value,
}

impl Echo {
    pub(super) fn new(config: EchoConfig) -> Self {
        Self { config }
    }

    /// Understands an input, or says what is wrong with it.
    fn directive(&self, input: &TaskInput) -> Result<Directive, String> {
        let text = match input {
            TaskInput::Message(message) if message.text.is_none() && message.content.is_none() => {
                return Ok(Directive::Say(last_results(message.history.as_deref().unwrap_or_default())));
            }
            TaskInput::Message(_) | TaskInput::Command { .. } => input.text(),
            TaskInput::ToolResult { results } => return Ok(Directive::Say(results_text(results))),
            TaskInput::Control { .. } | TaskInput::Decision { .. } => {
                return Err("the echo agent takes messages, commands and tool results".to_owned());
            }
        };
        let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((&text, ""));
        let rest = rest.trim();
        match word {
            "/words" => Ok(Directive::Words(self.count(word, rest)?)),
            "/progress" => Ok(Directive::Progress(self.count(word, rest)?)),
            "/tool" => call(word, rest).map(Directive::Tool),
            "/call" => {
                rest.lines().map(|line| call(word, line)).collect::<Result<_, _>>().map(Directive::Ask)
            }
            "/sleep" => match humantime::parse_duration(rest) {
                Ok(time) if time <= self.config.max_sleep => Ok(Directive::Sleep(time)),
                Ok(_) => {
                    let most = humantime::format_duration(self.config.max_sleep);
                    Err(format!("/sleep takes {most} at most"))
                }
                Err(_) => Err("/sleep takes a time, as in `/sleep 2s`".to_owned()),
            },
            "/fail" if rest.is_empty() => Ok(Directive::Fail("failed as it was told to".to_owned())),
            "/fail" => Ok(Directive::Fail(rest.to_owned())),
            "/silent" => Ok(Directive::Silent),
            _ => Ok(Directive::Say(text)),
        }
    }

    fn count(&self, directive: &str, argument: &str) -> Result<u32, String> {
        let most = self.config.max_count;
        let count = argument.parse().ok().filter(|count| (1..=most).contains(count));
        count.ok_or_else(|| format!("{directive} takes a number from 1 to {most}, as in `{directive} 5`"))
    }
}

fn call(directive: &str, argument: &str) -> Result<Call, String> {
    let usage =
        || format!("{directive} takes a name and JSON, as in `{directive} weather {{\"city\":\"Rome\"}}`");
    let (name, json) = argument.trim().split_once(char::is_whitespace).ok_or_else(usage)?;
    let json = json.trim();
    let value = serde_json::from_str(json).map_err(|error| format!("{}: {error}", usage()))?;
    Ok(Call { name: name.to_owned(), arguments: json.to_owned(), value })
}

/// What the tools said that a history ends with.
fn last_results(history: &[HistoryMessage]) -> String {
    let said = history.iter().rev().take_while(|message| message.role == "tool");
    let mut said: Vec<_> = said.map(|message| message.content.as_str().unwrap_or_default()).collect();
    said.reverse();
    said.join("\n")
}

fn results_text(results: &[ToolResult]) -> String {
    let lines = results.iter().map(|result| match (&result.result, &result.error) {
        (_, Some(error)) => error.clone(),
        (Some(Value::String(text)), None) => text.clone(),
        (Some(value), None) => value.to_string(),
        (None, None) => String::new(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// What it tells. It is silent only where it was told to be.
type Events = BoxStream<'static, AgentEvent>;

impl Agent for Echo {
    fn run(&self, turn: Turn) -> AgentStream {
        Box::pin(self.events(&turn).map(AgentSignal::Event))
    }
}

impl Echo {
    fn events(&self, turn: &Turn) -> Events {
        let directive = match self.directive(&turn.input) {
            Ok(directive) => directive,
            Err(why) => return one(AgentEvent::failed(ErrorType::InvalidInput, why)),
        };
        let delay = self.config.chunk_delay;
        let asked = words(&turn.input.text()).count();
        match directive {
            Directive::Say(text) => answer(text, asked, delay),
            Directive::Words(count) => answer(numbered(count), asked, delay),
            Directive::Fail(message) => one(AgentEvent::failed(ErrorType::AgentError, message)),
            Directive::Silent => Box::pin(futures::stream::pending()),
            Directive::Sleep(time) => after(answer_end("slept", asked), move || {
                Box::pin(stream! {
                    yield thinking();
                    tokio::time::sleep(time).await;
                })
            }),
            Directive::Progress(count) => after(answer_end("done", asked), move || {
                Box::pin(stream! {
                    yield thinking();
                    for step in 1..=count {
                        pause(delay).await;
                        yield AgentEvent::Progress {
                            progress: f64::from(step) / f64::from(count),
                            message: format!("step {step} of {count}"),
                            current_step: Some(step),
                            total_steps: Some(count),
                        };
                    }
                })
            }),
            Directive::Ask(calls) => ask(calls, turn.task, asked, delay),
            Directive::Tool(Call { name, arguments, value }) => after(answer_end("done", asked), move || {
                Box::pin(stream! {
                    yield thinking();
                    let call_id = "call_1".to_owned();
                    yield AgentEvent::ToolStarted {
                        call_id: call_id.clone(),
                        tool_name: name.clone(),
                        parameters: value.clone(),
                        arguments,
                        executor: "agent",
                        requires_approval: false,
                    };
                    pause(delay).await;
                    yield AgentEvent::ToolCompleted {
                        call_id,
                        tool_name: name,
                        result: value,
                        success: true,
                        duration_ms: u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
                    };
                })
            }),
        }
    }
}

/// A sentence, then calls for the client to carry out: their results are the next turn.
fn ask(calls: Vec<Call>, task: TaskId, asked: usize, delay: Duration) -> Events {
    Box::pin(stream! {
        let names: Vec<_> = calls.iter().map(|call| call.name.as_str()).collect();
        let text = format!("calling {}", names.join(" and "));
        yield thinking();
        pause(delay).await;
        yield AgentEvent::ResponseChunk { text: text.clone() };
        let mut listed = Vec::new();
        for (number, Call { name, arguments, value }) in (1..).zip(calls) {
            pause(delay).await;
            // Never the same as in another turn.
            let call_id = format!("call_{}_{number}", task.to_string().trim_start_matches("task_"));
            listed.push(json!({
                "id": call_id, "type": "function", "function": {"name": name, "arguments": arguments},
            }));
            yield AgentEvent::ToolStarted {
                call_id,
                tool_name: name,
                parameters: value,
                arguments,
                executor: "client",
                requires_approval: false,
            };
        }
        let said = words(&text).count();
        yield AgentEvent::Completed {
            messages: json!([{"role": "assistant", "content": text, "tool_calls": listed}]),
            text,
            usage: json!({"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}),
            finish_reason: "tool_calls".to_owned(),
        };
    })
}

fn one(event: AgentEvent) -> Events {
    Box::pin(futures::stream::iter([event]))
}

/// What `first` tells, then the end.
fn after(end: [AgentEvent; 2], first: impl FnOnce() -> Events) -> Events {
    Box::pin(first().chain(futures::stream::iter(end)))
}

fn thinking() -> AgentEvent {
    AgentEvent::Thinking { thought: "repeating what I was sent".to_owned(), step: None }
}

/// No timer where there is nothing to wait for: benchmarks run without delay.
async fn pause(delay: Duration) {
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
}

/// A thought, then a text word by word.
fn answer(text: String, asked: usize, delay: Duration) -> Events {
    Box::pin(stream! {
        yield thinking();
        let (mut at, mut count) = (0, 0);
        while at < text.len() {
            pause(delay).await;
            let word = first_word(&text[at..]);
            at += word.len();
            count += 1;
            yield AgentEvent::ResponseChunk { text: word.to_owned() };
        }
        yield completed(text, asked, count);
    })
}

fn answer_end(text: &str, asked: usize) -> [AgentEvent; 2] {
    [AgentEvent::ResponseChunk { text: text.to_owned() }, completed(text.to_owned(), asked, 1)]
}

fn completed(text: String, asked: usize, said: usize) -> AgentEvent {
    AgentEvent::Completed {
        messages: json!([{"role": "assistant", "content": text}]),
        text,
        usage: json!({"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}),
        finish_reason: "stop".to_owned(),
    }
}

fn numbered(count: u32) -> String {
    let mut text = String::with_capacity(count as usize * 7);
    for number in 1..=count {
        if number > 1 {
            text.push(' ');
        }
        text.push('w');
        text.push_str(&number.to_string());
    }
    text
}

/// The text's first word: the white space before it, where the text begins with some, the word, and the white space
/// after it.
fn first_word(text: &str) -> &str {
    let begin = text.find(|c: char| !c.is_whitespace()).unwrap_or(text.len());
    let end = text[begin..].find(char::is_whitespace).map_or(text.len(), |at| begin + at);
    let next = text[end..].find(|c: char| !c.is_whitespace()).map_or(text.len(), |at| end + at);
    &text[..next]
}

/// The pieces of a text, which joined are the text.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let word = (!rest.is_empty()).then(|| first_word(rest))?;
        rest = &rest[word.len()..];
        Some(word)
    })
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;
    use crate::domain::{SessionId, TaskId};

    fn turn(document: &str) -> Turn {
        Turn {
            task: TaskId::new(),
            session: SessionId::fresh(""),
            attempt: 1,
            input: TaskInput::parse(document).unwrap(),
            document: document.into(),
            history: Vec::new(),
        }
    }

    async fn run(text: &str) -> Vec<AgentEvent> {
        let echo = Echo::new(EchoConfig { chunk_delay: Duration::from_millis(5), ..EchoConfig::default() });
        let document = json!({"kind": "message", "text": text}).to_string();
        echo.events(&turn(&document)).collect().await
    }

    fn chunks(events: &[AgentEvent]) -> Vec<&str> {
        fn chunk(event: &AgentEvent) -> Option<&str> {
            match event {
                AgentEvent::ResponseChunk { text } => Some(text.as_str()),
                _ => None,
            }
        }
        events.iter().filter_map(chunk).collect()
    }

    fn end(events: &[AgentEvent]) -> Value {
        serde_json::from_str(&events.last().unwrap().data()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_text_comes_back_word_by_word_with_its_white_space() {
        let text = " two  words\n\tand änother ";
        let events = run(text).await;
        assert!(matches!(events[0], AgentEvent::Thinking { .. }));
        assert_eq!(chunks(&events), [" two  ", "words\n\t", "and ", "änother "]);
        let end = end(&events);
        assert_eq!(end["text"], text);
        assert_eq!(end["messages"], json!([{"role": "assistant", "content": text}]));
        assert_eq!(end["finish_reason"], "stop");
        assert_eq!(end["usage"], json!({"prompt_tokens": 4, "completion_tokens": 4, "total_tokens": 8}));
        assert_eq!(chunks(&run("").await), [""; 0]);
        assert_eq!(chunks(&run("  ").await), ["  "]);
    }

    #[tokio::test(start_paused = true)]
    async fn directives_do_what_they_say() {
        assert_eq!(chunks(&run("/words 3").await).concat(), "w1 w2 w3");

        let events = run("/tool weather {\"city\": \"Rome\"}").await;
        let kinds: Vec<_> = events.iter().map(|event| event.kind().to_string()).collect();
        assert_eq!(kinds, ["thinking", "tool_started", "tool_completed", "response_chunk", "completed"]);
        let started: Value = serde_json::from_str(&events[1].data()).unwrap();
        assert_eq!(started["arguments"], "{\"city\": \"Rome\"}");
        assert_eq!((&started["parameters"]["city"], &started["executor"]), (&"Rome".into(), &"agent".into()));
        let done: Value = serde_json::from_str(&events[2].data()).unwrap();
        assert_eq!((&done["result"]["city"], &done["success"]), (&"Rome".into(), &true.into()));

        let before = tokio::time::Instant::now();
        assert_eq!(chunks(&run("/sleep 2s").await), ["slept"]);
        assert_eq!(before.elapsed(), Duration::from_secs(2));

        let events = run("/progress 4").await;
        let last: Value = serde_json::from_str(&events[4].data()).unwrap();
        assert_eq!((events.len(), &last["progress"], &last["total_steps"]), (7, &1.0.into(), &4.into()));

        let failed = end(&run("/fail no luck today").await);
        assert_eq!(
            (&failed["error"], &failed["error_type"]),
            (&"no luck today".into(), &"agent_error".into())
        );
        assert_eq!(chunks(&run("/start now").await), ["/start ", "now"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_directive_that_makes_no_sense_is_invalid_input() {
        for text in [
            "/words",
            "/words 0",
            "/words -1",
            "/words 100001",
            "/words ten",
            "/progress 0",
            "/sleep",
            "/sleep 2",
            "/sleep 2h",
            "/tool",
            "/tool name",
            "/tool name {",
        ] {
            let events = run(text).await;
            let failed = end(&events);
            assert_eq!((events.len(), &failed["error_type"]), (1, &"invalid_input".into()), "{text}");
            assert!(failed["error"].as_str().unwrap().contains(text.split(' ').next().unwrap()), "{failed}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_silent() {
        let echo = Echo::new(EchoConfig::default());
        let mut stream = echo.run(turn(r#"{"kind":"message","text":"/silent"}"#));
        assert!(stream.next().now_or_never().is_none());
        let waited = tokio::time::timeout(Duration::from_secs(86_400), stream.next()).await;
        assert!(waited.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn tool_results_are_echoed_and_controls_refused() {
        let echo = Echo::new(EchoConfig::default());
        let results = r#"{"kind":"tool_result","results":[{"call_id":"c","result":"sunny day"},{"call_id":"d","error":"no"}]}"#;
        let events: Vec<_> = echo.events(&turn(results)).collect().await;
        assert_eq!(chunks(&events).concat(), "sunny day\nno");
        let events: Vec<_> =
            echo.events(&turn(r#"{"kind":"control","name":"switch_agent"}"#)).collect().await;
        assert_eq!(end(&events)["error_type"], "invalid_input");
    }
}
