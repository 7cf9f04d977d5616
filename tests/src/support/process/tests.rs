use super::*;

const LIMIT: Duration = Duration::from_secs(20);

fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(script);
    command
}

fn exists(pid: u32) -> bool {
    // A zombie has ended: it only waits for somebody to ask.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.trim().is_empty() && !rest.starts_with(" Z"))
}

#[test]
fn output_is_awaited_and_the_pid_is_the_programs_own() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = shell("echo $$ $WORD; exec sleep 600");
    command.env("WORD", "ready");
    let mut process = Process::spawn("sleeper", &command, &folder.path().join("log")).unwrap();
    process.wait_for_output("ready", LIMIT).unwrap();
    assert_eq!(process.output().unwrap().trim(), format!("{} ready", process.pid()));
    process.kill_hard().unwrap();
    assert!(!exists(process.pid()));
    assert!(process.signal("STOP").is_err());
}

#[test]
fn a_program_that_ends_early_shows_its_last_lines() {
    let folder = tempfile::tempdir().unwrap();
    let command = shell("echo no port >&2; exit 3");
    let mut process = Process::spawn("server", &command, &folder.path().join("log")).unwrap();
    let error = process.wait_for_output("ready", LIMIT).unwrap_err();
    let text = format!("{error:#}");
    assert!(text.contains("no port") && text.contains("exit status: 3"), "{text}");
    assert_eq!(process.terminate(LIMIT).unwrap().code(), Some(3));
}

#[test]
fn a_program_ends_with_the_test_binary_and_its_folder_goes() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    let command = shell("trap '' TERM; sleep 600 & wait; wait");
    let log = folder.path().join("log");
    let mut process = Process::spawn_removing("stubborn", &command, &log, Some(&data)).unwrap();
    // What the kernel does when this process ends.
    process.leash = None;
    wait_until("end of the program", LIMIT, || Ok(!process.is_running()?)).unwrap();
    wait_until("removal of the folder", LIMIT, || Ok(!data.exists())).unwrap();
}
