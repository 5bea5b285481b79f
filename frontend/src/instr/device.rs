//! `RUN --device=NAME[,required]`: a device by its CDI name.
//!
//! Names are understood where devices are found, by whoever runs the step; here they are only cut out.

use solver::op::Device;

use crate::error::Diagnostic;
use crate::span::Word;
use crate::suggest;

/// Reads one `--device` flag. A device that is not `required` may be missing.
pub fn read(word: &Word, found: &mut Vec<Diagnostic>) -> Option<Device> {
    let help = "write `--device=vendor.com/class=name`, with `,required` if the step cannot do without";
    let mut wrong = |message: String, help: String| {
        found.push(Diagnostic::error(word.span, message, "").help(help));
        None
    };
    let mut device = Device { name: String::new(), required: false };
    for field in word.text.split(',').filter(|_| !word.text.is_empty()) {
        let (key, value) = field.split_once('=').map_or((field, None), |(key, value)| (key, Some(value)));
        match (key.to_ascii_lowercase().as_str(), value) {
            ("required", None | Some("true" | "1")) => device.required = true,
            ("required", Some("false" | "0")) => device.required = false,
            ("required", Some(value)) => {
                return wrong(format!("`{value}` is neither true nor false"), help.into());
            }
            ("name", Some(name)) if device.name.is_empty() => device.name = name.to_owned(),
            // A name has a `=` of its own: `vendor.com/class=name`.
            _ if device.name.is_empty() && !field.is_empty() => device.name = field.to_owned(),
            _ => {
                let help = suggest::did_you_mean(key, ["name", "required"]).unwrap_or_else(|| help.into());
                return wrong(format!("`{field}` is no option of a device"), help);
            }
        }
    }
    if device.name.is_empty() {
        return wrong("`--device` names no device".into(), help.into());
    }
    Some(device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::span::Span;

    #[test]
    fn devices_are_cut_out() {
        let check = |text: &str, expected: Result<(&str, bool), &str>| {
            let mut found = Vec::new();
            let read = read(&Word { text: text.into(), span: Span::new(0, text.len()) }, &mut found);
            let read = read.map(|device| (device.name, device.required)).ok_or(found);
            let read = read.as_ref().map(|(name, required)| (name.as_str(), *required));
            assert_eq!(read.map_err(|found| found[0].message.as_str()), expected, "{text}");
        };
        check("vendor.com/class=name", Ok(("vendor.com/class=name", false)));
        check("vendor.com/class", Ok(("vendor.com/class", false)));
        check("vendor.com/class=*,required", Ok(("vendor.com/class=*", true)));
        check("required=true,name=a/b=c", Ok(("a/b=c", true)));
        check("required,a/b=c,Required=false", Ok(("a/b=c", false)));
        check("", Err("`--device` names no device"));
        check("required", Err("`--device` names no device"));
        check("name=", Err("`--device` names no device"));
        check("a/b=c,d/e=f", Err("`d/e=f` is no option of a device"));
        check("a/b=c,requird=1", Err("`requird=1` is no option of a device"));
        check("a/b=c,required=yes", Err("`yes` is neither true nor false"));
        check("a/b=c,", Err("`` is no option of a device"));
    }
}
