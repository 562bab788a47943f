//! Markup by construction: tags and attribute names are literals of ours, and whatever else goes
//! in is escaped on its way. There is no way to put a piece of text in as markup.
//!
//! A template crate would do the same for five pages with a procedural macro and four crates more.

/// A piece of markup.
#[derive(Clone, Debug, Default)]
pub(crate) struct Html(String);

/// A tag's attributes. An empty value is written, too: `required=""` is what HTML calls true.
pub(crate) type Attributes<'a> = &'a [(&'static str, &'a str)];

impl Html {
    /// A whole page.
    pub(crate) fn document(self) -> String {
        format!("<!DOCTYPE html>\n{}\n", self.0)
    }
}

/// An element with what is in it.
pub(crate) fn element(
    name: &'static str,
    attributes: Attributes<'_>,
    content: impl IntoIterator<Item = Html>,
) -> Html {
    let mut html = void(name, attributes);
    for piece in content {
        html.0.push_str(&piece.0);
    }
    html.0.push_str("</");
    html.0.push_str(name);
    html.0.push('>');
    html
}

/// An element that cannot have content: `input`, `meta`, `link`.
pub(crate) fn void(name: &'static str, attributes: Attributes<'_>) -> Html {
    let mut html = format!("<{name}");
    for (attribute, value) in attributes {
        html.push(' ');
        html.push_str(attribute);
        html.push_str("=\"");
        escape(value, &mut html);
        html.push('"');
    }
    html.push('>');
    Html(html)
}

/// Text, from wherever.
pub(crate) fn text(text: &str) -> Html {
    let mut html = String::new();
    escape(text, &mut html);
    Html(html)
}

/// An element with nothing but text in it.
pub(crate) fn label(name: &'static str, attributes: Attributes<'_>, words: &str) -> Html {
    element(name, attributes, [text(words)])
}

/// For element content and for attribute values in double quotes, which is all there is here.
fn escape(text: &str, html: &mut String) {
    for letter in text.chars() {
        match letter {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            letter if is_deceptive(letter) => html.push(char::REPLACEMENT_CHARACTER),
            letter => html.push(letter),
        }
    }
}

/// Letters that nobody sees, or that make a reader see others in another order.
fn is_deceptive(letter: char) -> bool {
    letter.is_control()
        || matches!(
            letter,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_becomes_markup() {
        let hostile = "</p><script>alert('1')</script>\" onfocus=\"x&amp;";
        let html = element("p", &[("title", hostile)], [text(hostile)]).0;
        let escaped = "&lt;/p&gt;&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&quot; onfocus=&quot;x&amp;amp;";
        assert_eq!(html, format!("<p title=\"{escaped}\">{escaped}</p>"));
    }

    #[test]
    fn letters_that_deceive_the_eye_are_shown_as_such() {
        for letter in ['\u{202e}', '\u{200b}', '\u{2066}', '\0', '\n', '\u{feff}'] {
            assert_eq!(text(&format!("a{letter}b")).0, "a\u{fffd}b", "{letter:?}");
        }
        assert_eq!(text("Zoë’s 電腦").0, "Zoë’s 電腦");
    }

    #[test]
    fn a_page_says_what_it_is() {
        let page = element(
            "html",
            &[("lang", "en")],
            [void("input", &[("required", "")])],
        );
        assert_eq!(
            page.document(),
            "<!DOCTYPE html>\n<html lang=\"en\"><input required=\"\"></html>\n"
        );
    }
}
