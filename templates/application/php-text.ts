/** A text of PHP in single quotes, as it is. */
export const phpText = (text: string): string => `'${text.replace(/[\\']/g, "\\$&")}'`;
