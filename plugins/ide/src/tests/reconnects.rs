//! Connections that come after others: what they see, and from where.

use super::*;
use proptest::prelude::*;

/// One event of a turn, by number.
fn event(script: Script, number: u8) -> Script {
    let token = json!({"type": "assistant_message", "token": "a", "content": null});
    let done = json!({"type": "done", "content": "x", "is_final": true});
    match number {
        0 => script.chunks(["a"]),
        1 => script.framed("response_chunk", json!({"text": "a"}), &token),
        2 => script.thinking("hm"),
        3 => script.framed("agent_done", json!({}), &done),
        4 => script.restart(),
        5 => script.event("tool_started", json!({"call_id": "c", "tool_name": "t", "executor": "client"})),
        6 => script.framed(
            "response_chunk",
            json!({"text": ""}),
            &json!({"type": "assistant_message", "content": "a", "is_final": true}),
        ),
        7 => script.lost(1).chunks(["lost"]),
        _ => script,
    }
}

/// The last event of a turn, by number.
fn end(script: Script, number: u8) -> Script {
    let done = json!({"type": "done", "is_final": true});
    match number {
        0 => script.completed("whole"),
        1 => script.completed(""),
        2 => script.framed("completed", json!({"text": "whole"}), &done),
        3 => script.failed("oops", "agent_error"),
        _ => script.cancelled("interrupted by a new message"),
    }
}

fn turn(events: &[u8], last: u8) -> Script {
    let script = events.iter().fold(Script::new().started(), |script, number| event(script, *number));
    end(script, last)
}

/// Has the turns happen, a connection at the session's start, and nothing cut: the frames without their cursors.
fn undisturbed(mock: &Mock, turns: &[(Vec<u8>, u8)]) -> Vec<Value> {
    let mut scripts: Vec<_> = turns.iter().map(|(events, last)| turn(events, *last)).collect();
    scripts.reverse();
    mock.agent(move |_| scripts.pop().expect("a script for each turn"));
    let mut upgrade = whole(mock);
    for _ in turns {
        upgrade = upgrade.json(&user("hi"));
    }
    stay(upgrade).json()
}

/// Connects again and again from where the last connection broke off, each taking so many frames.
fn in_pieces(mock: &Mock, takes: &mut dyn Iterator<Item = usize>) -> Vec<Value> {
    let (mut frames, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/ws/s?cursors=true&after={cursor}");
        let took = takes.next().unwrap_or(usize::MAX);
        let served = mock.websocket(&path).wait(MINUTE).leave().leaves_after(took).serve(&Ide);
        assert_eq!((&served.error, &served.closed), (&None, &None), "{path}");
        for mut frame in served.json() {
            cursor = frame.as_object_mut().unwrap().remove("cursor").unwrap().as_str().unwrap().to_owned();
            frames.push(frame);
        }
        if took == usize::MAX {
            return frames;
        }
    }
}

proptest! {
    #[test]
    fn wherever_a_connection_is_cut_no_frame_is_lost_or_doubled(
        turns in prop::collection::vec((prop::collection::vec(0_u8..7, 0..8), 0_u8..5), 1..4),
        takes in prop::collection::vec(1_usize..4, 0..40),
    ) {
        // The log of a turn that began again holds its present run, so what was shown before is not in it.
        let turns: Vec<_> = turns
            .into_iter()
            .map(|(mut events, last)| {
                events.retain(|number| *number != 4);
                (events, last)
            })
            .collect();
        let mock = mock();
        let expected = undisturbed(&mock, &turns);
        prop_assert_eq!(in_pieces(&mock, &mut takes.into_iter()), expected);
    }
}

#[test]
fn every_frame_but_the_first_words_of_a_new_session_carries_a_cursor() {
    let mock = mock();
    let upgrade = mock.websocket("/ws/s?cursors=true").text("{").json(&user("a b")).wait(MINUTE).text("{");
    let said = stay(upgrade).json();
    let cursors: Vec<_> = said.iter().map(|frame| frame["cursor"].as_str()).collect();
    let expected = [
        None,
        Some("task_1.1.2~m"),
        Some("task_1.1.3~m"),
        Some("task_1.1.3~b"),
        Some("task_1.1.4"),
        Some("task_1.1.4"),
    ];
    assert_eq!(cursors, expected);
    assert!(cursors.iter().flatten().all(|cursor| !cursor.contains(['%', '+', ' ', '"', '&'])));
    // One of the gateway's own words leads back to where it was said.
    let error = stay(mock.websocket("/ws/s?after=task_1.1.3~b")).json();
    assert_eq!(error.len(), 1);
    assert_eq!(error[0]["type"], "done");
}

#[test]
fn without_a_cursor_a_connection_sees_what_comes_from_now_on() {
    let mock = mock();
    mock.agent(|turn: &Submission| {
        Script::new()
            .every(Duration::from_secs(20))
            .started()
            .chunks([turn.text(), "and so on"])
            .completed("x")
    });
    let first = mock
        .websocket("/ws/s")
        .json(&user("one"))
        .json(&user("two"))
        .wait(Duration::from_secs(50))
        .leave()
        .serve(&Ide);
    assert_eq!(first.json().len(), 1);
    // The first turn has 10 seconds to its next chunk.
    let second = mock
        .websocket("/ws/s?cursors=true")
        .wait(Duration::from_secs(5))
        .text("{")
        .wait(4 * MINUTE)
        .leave()
        .serve(&Ide);
    let said = second.json();
    assert_eq!(said[0]["cursor"], Value::Null, "it stands nowhere yet");
    assert_eq!(said[1]["token"], "and so on");
    assert_eq!(said[4]["token"], "two", "turns that another connection began are seen too");
    assert_eq!(said.len(), 8);
    mock.advance(MINUTE);
    assert!(stay(mock.websocket("/ws/s")).frames.is_empty());
    assert_eq!(stay(mock.websocket("/ws/s?after=")).frames.len(), 8);
    assert!(stay(mock.websocket("/ws/another?after=")).frames.is_empty());
}

#[test]
fn what_is_sent_again_is_answered_though_it_was_answered_before() {
    let mock = mock();
    let again = json!({"type": "user_message", "content": "once", "idempotency_key": "k"});
    mock.agent(|turn: &Submission| Script::new().started().chunks([turn.text()]).completed(turn.text()));
    let first = stay(mock.websocket("/ws/s").json(&again)).json();
    stay(mock.websocket("/ws/s").json(&user("meanwhile")));
    mock.advance(MINUTE);
    let said = stay(mock.websocket("/ws/s").json(&again)).json();
    assert_eq!(said[..3], first);
    assert_eq!(said[3]["token"], "meanwhile", "and all that came behind it");
    // Whoever hears of other turns already has to say where it left off.
    let said = stay(mock.websocket("/ws/s").json(&user("new")).wait(MINUTE).json(&again)).json();
    assert_eq!((said.len(), &said[0]["token"]), (3, &json!("new")));
}

#[test]
fn the_first_frame_of_a_new_connection_leads_nowhere_where_there_is_nothing_before_it() {
    let mock = mock();
    says(&mock, Script::new().every(Duration::from_secs(20)).started().chunks(["a"]).completed("a"));
    ask(&mock, "old");
    let first = mock.websocket("/ws/s").json(&user("hi")).wait(Duration::from_secs(45)).leave().serve(&Ide);
    assert_eq!(first.json().len(), 1);
    let said = stay(mock.websocket("/ws/s?cursors=true")).json();
    assert_eq!((&said[0]["content"], &said[0]["cursor"]), (&json!("a"), &Value::Null));
    assert_eq!((&said[1]["type"], said.len()), (&json!("done"), 2));
    assert!(said[1]["cursor"].is_string());
}

#[test]
fn what_came_before_an_orderly_close_is_done() {
    let mock = mock();
    let upgrade = mock.websocket("/ws/s").json(&user("one")).json(&user("two")).json(&user("three"));
    upgrade.leave().leaves_after(1).serve(&Ide);
    assert_eq!(mock.submissions().len(), 3);
}

#[test]
fn keys_of_sessions_do_not_meet() {
    let mock = mock();
    let said = |key: &str| json!({"type": "user_message", "content": "hi", "idempotency_key": key});
    stay(mock.websocket("/ws/a").json(&said("b\nc")));
    stay(mock.websocket("/ws/a%0Ab").json(&said("c")));
    assert_eq!(mock.submissions().len(), 2);
}

#[test]
fn a_cursor_that_leads_nowhere_is_an_error_and_what_is_new_follows() {
    let mock = mock();
    ask(&mock, "elsewhere");
    stay(mock.websocket("/ws/other").json(&user("hi")));
    mock.advance(MINUTE);
    for (after, why) in [
        ("task_2.1.1", "the cursor is of no task of this session"),
        ("task_2.1.1~o", "the cursor is of no task of this session"),
        ("nonsense", "the cursor is of no task of this session"),
        ("task_1.1.1~x", "it is no cursor"),
        ("%00~~", "it is no cursor"),
    ] {
        let said = stay(mock.websocket(&format!("/ws/s?after={after}")).json(&user("new"))).json();
        let expected = format!("Streaming error: after: {why}; only what is new follows");
        assert_eq!(said[0], error(&expected), "{after}");
        assert_eq!(said[1]["token"], "new", "{after}");
    }
}

#[test]
fn a_session_that_can_not_be_followed_closes_the_connection() {
    let mock = mock();
    let served = mock.websocket(&format!("/ws/{}", "s".repeat(513))).serve(&Ide);
    assert_eq!(served.json(), [error("Streaming error: session: must have 1 to 512 bytes")]);
    assert_eq!(served.closed, Some((1008, "the session's name is not acceptable".to_owned())));
    mock.break_storage(Some("redis://10.0.0.7 refused"));
    let served = mock.websocket("/ws/s?after=task_1.1.1").serve(&Ide);
    assert_eq!(served.closed, Some((1013, "try again later".to_owned())));
    assert!(!served.texts()[0].contains("redis"));
}

#[test]
fn a_connection_goes_on_in_the_run_that_took_the_place_of_the_one_it_saw() {
    let mock = mock();
    let restarted =
        Script::new().started().chunks(["a", "b"]).wait(MINUTE).restart().chunks(["c"]).completed("c");
    says(&mock, restarted);
    let first = mock.websocket("/ws/s?cursors=1").json(&user("hi")).leaves_after(1).serve(&Ide);
    let cursor = first.json()[0]["cursor"].as_str().unwrap().to_owned();
    assert_eq!(cursor, "task_1.1.2~m");
    mock.advance(MINUTE);
    let said = stay(mock.websocket(&format!("/ws/s?after={cursor}"))).json();
    assert_eq!(said[0], error("Streaming error: the turn broke off and begins again; what it said is void"));
    assert_eq!(said[1]["token"], "c");
    // Whoever has seen nothing of the first run is not troubled with it.
    let said = stay(mock.websocket("/ws/s?after=")).json();
    assert_eq!(said[0]["token"], "c");
}
