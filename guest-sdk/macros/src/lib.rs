//! The attributes `#[cloudlet::http]` and `#[cloudlet::call]`; their documentation is in `cloudlet`.
//!
//! They only need the function's name, so they read tokens themselves: no parser to compile for every guest.
//! What the function takes and returns is checked by the traits that the generated code calls.

use proc_macro::{Delimiter, Group, Ident, Literal, Punct, Spacing, Span, TokenStream, TokenTree};

/// Makes a function the handler of HTTP requests. See `cloudlet::http`.
#[proc_macro_attribute]
pub fn http(arguments: TokenStream, item: TokenStream) -> TokenStream {
    entry("http", "__export_http", arguments, item)
}

/// Makes a function the handler of calls. See `cloudlet::call`.
#[proc_macro_attribute]
pub fn call(arguments: TokenStream, item: TokenStream) -> TokenStream {
    entry("call", "__export_call", arguments, item)
}

/// The item as it is, followed by `::cloudlet::EXPORT!(NAME);`.
fn entry(attribute: &str, export: &str, arguments: TokenStream, item: TokenStream) -> TokenStream {
    if let Some(token) = arguments.into_iter().next() {
        return error(
            &format!("#[cloudlet::{attribute}] takes no arguments"),
            token.span(),
        );
    }
    let name = match function_name(attribute, &item) {
        Ok(name) => name,
        Err((message, span)) => {
            let mut tokens = error(&message, span);
            tokens.extend(item);
            return tokens;
        }
    };
    let mut tokens = item;
    let call_site = Span::call_site();
    tokens.extend([
        TokenTree::from(Punct::new(':', Spacing::Joint)),
        Punct::new(':', Spacing::Alone).into(),
        Ident::new("cloudlet", call_site).into(),
        Punct::new(':', Spacing::Joint).into(),
        Punct::new(':', Spacing::Alone).into(),
        Ident::new(export, call_site).into(),
        Punct::new('!', Spacing::Alone).into(),
        Group::new(Delimiter::Parenthesis, TokenTree::from(name).into()).into(),
        Punct::new(';', Spacing::Alone).into(),
    ]);
    tokens
}

/// The identifier after `fn`, or what is wrong with the item and where.
fn function_name(attribute: &str, item: &TokenStream) -> Result<Ident, (String, Span)> {
    let mut tokens = item.clone().into_iter();
    while let Some(token) = tokens.next() {
        let TokenTree::Ident(word) = &token else { continue };
        match word.to_string().as_str() {
            "async" => {
                let message = "functions are synchronous: an instance serves one invocation and may simply wait; \
                               remove `async`";
                return Err((message.to_owned(), word.span()));
            }
            "fn" => {
                return match tokens.next() {
                    Some(TokenTree::Ident(name)) => Ok(name),
                    _ => Err(("expected a name after `fn`".to_owned(), word.span())),
                };
            }
            _ => {}
        }
    }
    Err((
        format!("#[cloudlet::{attribute}] goes on a function"),
        Span::call_site(),
    ))
}

/// `compile_error!(message);` at `span`.
fn error(message: &str, span: Span) -> TokenStream {
    let mut literal = Literal::string(message);
    literal.set_span(span);
    let mut tokens = [
        TokenTree::from(Ident::new("compile_error", span)),
        Punct::new('!', Spacing::Alone).into(),
        Group::new(Delimiter::Parenthesis, TokenTree::from(literal).into()).into(),
        Punct::new(';', Spacing::Alone).into(),
    ];
    for token in &mut tokens {
        token.set_span(span);
    }
    tokens.into_iter().collect()
}
