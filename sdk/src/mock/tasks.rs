//! The contract's `tasks`: what is submitted is recorded, scripted, and followed.

use super::{
    agent::{Script, Submission, schedule},
    state::{Follow, State, count_import, import, with},
};
use crate::task::{Moment, SubmitError};
use crate::{
    bounds::{FOLLOWS, SESSION_NAME, TASK_ADDRESS, TASK_KEY},
    sys::raw,
};
use raw::tasks::{Accepted, Begin, Error, NewTask};

pub(crate) fn submit(task: &NewTask) -> Result<Accepted, raw::tasks::SubmitError> {
    let result = submit_now(task);
    count_import();
    result
}

fn is_name(name: &str) -> bool {
    (1..=SESSION_NAME).contains(&name.len())
}

/// The bounds of what may be submitted.
fn check(task: &NewTask) -> Result<(), String> {
    if !task.session.as_deref().is_none_or(is_name) {
        return Err(format!("session: must have 1 to {SESSION_NAME} bytes"));
    }
    if !task.idempotency_key.as_ref().is_none_or(|key| (1..=TASK_KEY).contains(&key.len())) {
        return Err(format!("idempotency_key: must have 1 to {TASK_KEY} bytes"));
    }
    if task.deliver.as_ref().is_some_and(|order| order.address.len() > TASK_ADDRESS) {
        return Err(format!("deliver.address: must have at most {TASK_ADDRESS} bytes"));
    }
    Ok(())
}

fn submit_now(task: &NewTask) -> Result<Accepted, raw::tasks::SubmitError> {
    let parse = |text: &str| serde_json::from_str(text).map_err(|error: serde_json::Error| error.to_string());
    check(task).map_err(raw::tasks::SubmitError::Invalid)?;
    let input = parse(&task.input).map_err(raw::tasks::SubmitError::Invalid)?;
    let deliver = match &task.deliver {
        None => None,
        Some(order) => {
            let moment = match order.at {
                raw::tasks::Moment::Start => Moment::Start,
                raw::tasks::Moment::End => Moment::End,
            };
            Some((moment, parse(&order.address).map_err(raw::tasks::SubmitError::Invalid)?))
        }
    };
    let known = with(|state| {
        if let Some(fault) = &state.submit_fault {
            return Err(match fault.clone() {
                SubmitError::UnknownAgent(name) => raw::tasks::SubmitError::UnknownAgent(name),
                SubmitError::Invalid(why) => raw::tasks::SubmitError::Invalid(why),
                SubmitError::Busy { retry_after } => {
                    raw::tasks::SubmitError::Busy(crate::sys::millis64(retry_after))
                }
                SubmitError::Refused(why) => raw::tasks::SubmitError::Refused(why),
                SubmitError::Unavailable(why) => raw::tasks::SubmitError::Unavailable(why),
            });
        }
        if let Some(agent) = &task.agent
            && !state.agents.iter().any(|known| known.name == *agent)
        {
            return Err(raw::tasks::SubmitError::UnknownAgent(agent.clone()));
        }
        let key = task.idempotency_key.as_ref();
        let same = |submission: &&Submission| key.is_some() && submission.idempotency_key.as_ref() == key;
        Ok(state.submissions.iter().find(same).cloned())
    })?;
    if let Some(known) = known {
        return Ok(Accepted { task: known.task.into(), session: known.session.into(), duplicate: true });
    }
    let (mut script, submission, now_ms) = with(|state| {
        let number = state.submissions.len() + 1;
        let submission = Submission {
            task: format!("task_{number}").into(),
            session: task.session.clone().unwrap_or_else(|| format!("session_{number}")).into(),
            agent: task.agent.clone(),
            input,
            document: task.input.clone(),
            deliver,
            idempotency_key: task.idempotency_key.clone(),
        };
        state.submissions.push(submission.clone());
        (state.script.take(), submission, state.now_ms)
    });
    let said = script.as_mut().map_or_else(|| Script::echo(submission.text()), |script| script(&submission));
    with(|state| {
        state.script = state.script.take().or(script);
        let (id, session) = (submission.task.to_string(), submission.session.to_string());
        state.tasks.insert(id.clone(), said.into_log(&id, &session, now_ms));
        schedule(state, &session);
        if state.exchange.sessions.contains(&session) {
            state.exchange.follows.push(Follow { task: id.clone(), next: 0, of_session: true, ended: false });
        }
        Ok(Accepted { task: id, session, duplicate: false })
    })
}

/// Calls the closure unless storage fails.
fn lookup<T>(call: impl FnOnce(&mut State) -> Result<T, Error>) -> Result<T, Error> {
    import(|state| match &state.store_fault {
        Some(fault) => Err(Error::Unavailable(fault.clone())),
        None => call(state),
    })
}

pub(crate) fn follow(task: &str, after: Option<&str>) -> Result<(), Error> {
    lookup(|state| {
        let unknown = || Error::NotFound(format!("no task {task:?} of this plugin"));
        let log = state.tasks.get(task).ok_or_else(unknown)?;
        if after.is_some_and(|cursor| cursor.split('.').next() != Some(task)) {
            return Err(Error::Invalid(format!("the cursor is of another task than {task}")));
        }
        let next = log.start(after, state.now_ms);
        let exchange = &mut state.exchange;
        exchange.follows.retain(|follow| follow.task != task);
        if exchange.followed() >= FOLLOWS {
            return Err(Error::TooMany(format!("an exchange follows at most {FOLLOWS} tasks and sessions")));
        }
        let follow = Follow { task: task.to_owned(), next, of_session: false, ended: false };
        exchange.follows.push(follow);
        Ok(())
    })
}

pub(crate) fn follow_session(session: &str, begin: &Begin) -> Result<(), Error> {
    lookup(|state| {
        let after = match begin {
            Begin::Task(task) => Some(task.as_str()),
            Begin::After(cursor) => Some(cursor.as_str()),
            Begin::Start | Begin::Now => None,
        };
        check_session(session)?;
        let turns: Vec<&Submission> =
            state.submissions.iter().filter(|submission| submission.session == session).collect();
        // A cursor names its task, so turns before that task are behind it.
        let seen = after.and_then(|cursor| {
            let task = cursor.split('.').next()?;
            turns.iter().position(|turn| turn.task == task)
        });
        if after.is_some() && seen.is_none() {
            return Err(Error::Invalid("the cursor is of no task of this session".to_owned()));
        }
        let exchange = &mut state.exchange;
        exchange.follows.retain(|follow| !follow.of_session);
        exchange.sessions.retain(|known| known != session);
        if exchange.followed() >= FOLLOWS {
            return Err(Error::TooMany(format!("an exchange follows at most {FOLLOWS} tasks and sessions")));
        }
        for (index, turn) in turns.iter().enumerate().skip(seen.unwrap_or(0)) {
            let Some(log) = state.tasks.get(turn.task.as_str()) else { continue };
            let after = after.filter(|_| Some(index) == seen);
            let next = match begin {
                Begin::Now => log.happened(state.now_ms),
                _ => log.start(after, state.now_ms),
            };
            exchange.follows.push(Follow {
                task: turn.task.to_string(),
                next,
                of_session: true,
                ended: false,
            });
        }
        exchange.sessions.push(session.to_owned());
        Ok(())
    })
}

pub(crate) fn cancel(task: &str) -> Result<bool, Error> {
    lookup(|state| {
        let now_ms = state.now_ms;
        let Some(log) = state.tasks.get_mut(task) else { return Ok(false) };
        let (cancelled, session) = (log.cancel(task, now_ms), log.session.clone());
        schedule(state, &session);
        Ok(cancelled)
    })
}

fn check_session(session: &str) -> Result<(), Error> {
    if is_name(session) {
        Ok(())
    } else {
        Err(Error::Invalid(format!("session: must have 1 to {SESSION_NAME} bytes")))
    }
}

pub(crate) fn cancel_session(session: &str) -> Result<u32, Error> {
    lookup(|state| {
        check_session(session)?;
        let turns = state.tasks.iter_mut().filter(|(_, log)| log.session == session);
        let cancelled = turns.map(|(task, log)| u32::from(log.cancel(task, state.now_ms))).sum();
        schedule(state, session);
        Ok(cancelled)
    })
}

pub(crate) fn describe(task: &str) -> Result<Option<String>, Error> {
    lookup(|state| {
        let log = state.tasks.get(task);
        Ok(log.map(|log| log.describe(task, state.now_ms).to_string()))
    })
}
